"""Countries, capitals and cities: what a small model knows of the world."""

# country | capital | continent | main language; left out where one of them is disputed
COUNTRIES = """
Afghanistan|Kabul|Asia|Pashto
Albania|Tirana|Europe|Albanian
Algeria|Algiers|Africa|Arabic
Angola|Luanda|Africa|Portuguese
Argentina|Buenos Aires|South America|Spanish
Armenia|Yerevan|Asia|Armenian
Australia|Canberra|Oceania|English
Austria|Vienna|Europe|German
Azerbaijan|Baku|Asia|Azerbaijani
Bahrain|Manama|Asia|Arabic
Bangladesh|Dhaka|Asia|Bengali
Belarus|Minsk|Europe|Belarusian
Belgium|Brussels|Europe|Dutch
Bolivia|La Paz|South America|Spanish
Botswana|Gaborone|Africa|English
Brazil|Brasilia|South America|Portuguese
Bulgaria|Sofia|Europe|Bulgarian
Cambodia|Phnom Penh|Asia|Khmer
Cameroon|Yaounde|Africa|French
Canada|Ottawa|North America|English
Chad|N'Djamena|Africa|French
Chile|Santiago|South America|Spanish
China|Beijing|Asia|Chinese
Colombia|Bogota|South America|Spanish
Croatia|Zagreb|Europe|Croatian
Cuba|Havana|North America|Spanish
Cyprus|Nicosia|Europe|Greek
Denmark|Copenhagen|Europe|Danish
Ecuador|Quito|South America|Spanish
Egypt|Cairo|Africa|Arabic
Estonia|Tallinn|Europe|Estonian
Ethiopia|Addis Ababa|Africa|Amharic
Fiji|Suva|Oceania|English
Finland|Helsinki|Europe|Finnish
France|Paris|Europe|French
Georgia|Tbilisi|Asia|Georgian
Germany|Berlin|Europe|German
Ghana|Accra|Africa|English
Greece|Athens|Europe|Greek
Guatemala|Guatemala City|North America|Spanish
Haiti|Port-au-Prince|North America|Creole
Hungary|Budapest|Europe|Hungarian
Iceland|Reykjavik|Europe|Icelandic
India|New Delhi|Asia|Hindi
Indonesia|Jakarta|Asia|Indonesian
Iran|Tehran|Asia|Persian
Iraq|Baghdad|Asia|Arabic
Ireland|Dublin|Europe|English
Italy|Rome|Europe|Italian
Jamaica|Kingston|North America|English
Japan|Tokyo|Asia|Japanese
Jordan|Amman|Asia|Arabic
Kazakhstan|Astana|Asia|Kazakh
Kenya|Nairobi|Africa|Swahili
Kuwait|Kuwait City|Asia|Arabic
Laos|Vientiane|Asia|Lao
Latvia|Riga|Europe|Latvian
Lebanon|Beirut|Asia|Arabic
Liberia|Monrovia|Africa|English
Libya|Tripoli|Africa|Arabic
Lithuania|Vilnius|Europe|Lithuanian
Madagascar|Antananarivo|Africa|Malagasy
Malaysia|Kuala Lumpur|Asia|Malay
Mali|Bamako|Africa|French
Malta|Valletta|Europe|Maltese
Mexico|Mexico City|North America|Spanish
Mongolia|Ulaanbaatar|Asia|Mongolian
Morocco|Rabat|Africa|Arabic
Mozambique|Maputo|Africa|Portuguese
Myanmar|Naypyidaw|Asia|Burmese
Namibia|Windhoek|Africa|English
Nepal|Kathmandu|Asia|Nepali
Netherlands|Amsterdam|Europe|Dutch
Nicaragua|Managua|North America|Spanish
Nigeria|Abuja|Africa|English
Norway|Oslo|Europe|Norwegian
Oman|Muscat|Asia|Arabic
Pakistan|Islamabad|Asia|Urdu
Panama|Panama City|North America|Spanish
Paraguay|Asuncion|South America|Spanish
Peru|Lima|South America|Spanish
Philippines|Manila|Asia|Filipino
Poland|Warsaw|Europe|Polish
Portugal|Lisbon|Europe|Portuguese
Qatar|Doha|Asia|Arabic
Romania|Bucharest|Europe|Romanian
Russia|Moscow|Europe|Russian
Rwanda|Kigali|Africa|Kinyarwanda
Senegal|Dakar|Africa|French
Serbia|Belgrade|Europe|Serbian
Singapore|Singapore|Asia|English
Slovakia|Bratislava|Europe|Slovak
Slovenia|Ljubljana|Europe|Slovene
Somalia|Mogadishu|Africa|Somali
Spain|Madrid|Europe|Spanish
Sudan|Khartoum|Africa|Arabic
Sweden|Stockholm|Europe|Swedish
Switzerland|Bern|Europe|German
Syria|Damascus|Asia|Arabic
Tanzania|Dodoma|Africa|Swahili
Thailand|Bangkok|Asia|Thai
Tunisia|Tunis|Africa|Arabic
Turkey|Ankara|Asia|Turkish
Uganda|Kampala|Africa|English
Ukraine|Kyiv|Europe|Ukrainian
Uruguay|Montevideo|South America|Spanish
Uzbekistan|Tashkent|Asia|Uzbek
Venezuela|Caracas|South America|Spanish
Vietnam|Hanoi|Asia|Vietnamese
Yemen|Sanaa|Asia|Arabic
Zambia|Lusaka|Africa|English
Zimbabwe|Harare|Africa|English
"""

# city (no capital) | country
CITIES = """
Alexandria|Egypt
Auckland|New Zealand
Barcelona|Spain
Basel|Switzerland
Bordeaux|France
Calgary|Canada
Cape Town|South Africa
Chicago|United States
Cologne|Germany
Cordoba|Argentina
Cusco|Peru
Dresden|Germany
Dubai|United Arab Emirates
Edinburgh|Scotland
Florence|Italy
Frankfurt|Germany
Geneva|Switzerland
Glasgow|Scotland
Gothenburg|Sweden
Guadalajara|Mexico
Hamburg|Germany
Hiroshima|Japan
Houston|United States
Istanbul|Turkey
Johannesburg|South Africa
Karachi|Pakistan
Krakow|Poland
Kumasi|Ghana
Kyoto|Japan
Lagos|Nigeria
Lahore|Pakistan
Lyon|France
Mandalay|Myanmar
Marseille|France
Medellin|Colombia
Melbourne|Australia
Milan|Italy
Mombasa|Kenya
Montreal|Canada
Mosul|Iraq
Mumbai|India
Munich|Germany
Nagoya|Japan
Naples|Italy
Odessa|Ukraine
Osaka|Japan
Perth|Australia
Porto|Portugal
Rotterdam|Netherlands
Salzburg|Austria
Seville|Spain
Shanghai|China
Sydney|Australia
Toronto|Canada
Turin|Italy
Valencia|Spain
Vancouver|Canada
Venice|Italy
Zurich|Switzerland
"""
