"""Everyday sense as sentences with a right and three wrong last words."""

# beginning | right end | wrong ends
SENSE = """
The opposite of hot is|cold|red,loud,early
The opposite of big is|small|green,fast,wet
The opposite of up is|down|left,over,far
The opposite of young is|old|tall,rich,kind
The opposite of rich is|poor|fat,quiet,blue
The opposite of light is|dark|soft,new,warm
The opposite of open is|closed|large,sweet,empty
The opposite of wet is|dry|low,sharp,green
The opposite of full is|empty|round,heavy,late
The opposite of early is|late|long,thin,cold
The opposite of strong is|weak|tall,clean,dark
The opposite of love is|hate|hope,sleep,food
The opposite of win is|lose|play,run,learn
The opposite of buy is|sell|carry,find,drop
The opposite of begin is|end|try,walk,grow
The opposite of always is|never|often,soon,maybe
The opposite of friend is|enemy|brother,teacher,guest
The opposite of war is|peace|army,king,land
The opposite of north is|south|river,road,top
The opposite of cheap is|expensive|broken,small,common
The opposite of quiet is|loud|calm,bright,slow
The opposite of thick is|thin|wide,hard,short
The opposite of true is|false|real,kind,deep
The opposite of sweet is|bitter|tasty,fresh,brown
You cut bread with a|knife|spoon,cup,pillow
You eat soup with a|spoon|knife,pen,shoe
You write on paper with a|pen|fork,brick,hat
You open a locked door with a|key|book,spoon,cloud
You drive a nail into wood with a|hammer|towel,spoon,bottle
You sweep the floor with a|broom|plate,pen,lamp
You sleep in a|bed|fridge,drawer,cup
You read the time on a|clock|chair,door,shoe
You dry your hands with a|towel|knife,stone,lamp
You wear shoes on your|feet|hands,ears,eyes
You wear gloves on your|hands|feet,knees,ears
You wear a hat on your|head|foot,hand,knee
You see with your|eyes|ears,feet,hands
You hear with your|ears|eyes,hands,knees
You smell with your|nose|elbow,foot,hand
You chew with your|teeth|ears,fingers,knees
You take a photo with a|camera|hammer,spoon,bucket
You carry water in a|bucket|net,fork,book
You catch fish with a|net|book,pillow,clock
You borrow books from a|library|bakery,hospital,farm
You buy bread at a|bakery|library,bank,church
You buy medicine at a|pharmacy|library,stadium,farm
You watch a film in a|cinema|bakery,garage,bank
You board a plane at an|airport|office,island,oven
You board a train at a|station|farm,church,lake
You keep money in a|bank|cloud,forest,shoe
Sick people are treated in a|hospital|bakery,garage,stadium
Children learn to read at|school|sea,night,war
The colour of grass is|green|blue,red,black
The colour of snow is|white|green,orange,purple
The colour of a ripe banana is|yellow|blue,purple,black
The colour of blood is|red|green,blue,yellow
The colour of the sky on a clear day is|blue|green,red,brown
The colour of coal is|black|white,yellow,pink
The colour of a ripe tomato is|red|blue,white,black
The colour of chocolate is|brown|blue,green,pink
The colour of an orange is|orange|blue,black,grey
A puppy is a young|dog|cat,horse,bird
A kitten is a young|cat|dog,horse,fish
A calf is a young|cow|hen,dog,bear
A lamb is a young|sheep|cow,cat,duck
A foal is a young|horse|pig,cat,goat
A rose is a kind of|flower|animal,metal,drink
A salmon is a kind of|fish|bird,tree,metal
An eagle is a kind of|bird|fish,tree,fruit
An oak is a kind of|tree|fish,bird,metal
Gold is a kind of|metal|fruit,animal,plant
An apple is a kind of|fruit|metal,animal,tool
A hammer is a kind of|tool|fruit,animal,flower
A violin is an|instrument|animal,insect,ocean
A carrot is a kind of|vegetable|metal,animal,bird
A shirt is a piece of|clothing|furniture,land,music
A table is a piece of|furniture|clothing,land,music
A tiger is a kind of|animal|plant,metal,fruit
Wine is made from|grapes|potatoes,wood,wool
Bread is made from|flour|glass,wood,iron
Cheese is made from|milk|sand,wood,oil
Paper is made from|wood|milk,iron,salt
Glass is made from|sand|wool,milk,flour
Butter is made from|cream|sand,grapes,wood
Honey is made by|bees|cows,fish,horses
Eggs are laid by|hens|cows,dogs,horses
Wool comes from|sheep|fish,bees,trees
Milk comes from|cows|bees,trees,rocks
Fish live in|water|trees,caves,sand
Birds build their|nests|cars,books,ovens
Bees live in a|hive|lake,book,shoe
Camels live in the|desert|ocean,kitchen,sky
Whales live in the|ocean|desert,forest,mountain
Polar bears live where it is|cold|hot,dry,loud
After Monday comes|Tuesday|Friday,Sunday,Saturday
After Thursday comes|Friday|Monday,Tuesday,Sunday
After March comes|April|July,January,October
After June comes|July|March,December,May
After spring comes|summer|winter,night,morning
After breakfast comes|lunch|sleep,winter,dawn
The sun rises in the|morning|night,evening,winter
People sleep at|night|noon,work,school
It is cold in|winter|summer,July,ovens
Ice is frozen|water|oil,sand,milk
When ice gets warm it|melts|burns,sings,grows
When water boils it turns into|steam|ice,sand,oil
Rain falls from|clouds|rivers,trees,roads
Plants need sunlight and|water|shoes,music,money
A week has seven|days|hours,months,years
An hour has sixty|minutes|days,weeks,months
A minute has sixty|seconds|hours,days,weeks
A year has twelve|months|weeks,hours,minutes
A triangle has three|sides|wheels,legs,colours
A spider has eight|legs|wings,eggs,tails
A bicycle has two|wheels|wings,roofs,engines
A teacher works in a|school|mine,boat,bank
A farmer works on a|farm|ship,stage,train
A pilot flies a|plane|car,horse,truck
A doctor treats|patients|engines,houses,books
A baker bakes|bread|bricks,shoes,cars
A painter uses a|brush|hammer,net,saw
A judge works in a|court|kitchen,mine,field
A chef works in a|kitchen|court,mine,library
A sailor works on a|ship|farm,stage,roof
A king wears a|crown|tie,mask,belt
The mother of my mother is my|grandmother|sister,aunt,cousin
The son of my parents is my|brother|uncle,nephew,father
The sister of my father is my|aunt|mother,niece,cousin
"""
