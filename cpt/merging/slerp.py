"""Spherical interpolation of two fp32 tensors."""

import math
from typing import TYPE_CHECKING

from cpt.merging.linear import average

if TYPE_CHECKING:
    from torch import Tensor

#: Below this sine of the angle the great circle is a straight line to fp32, or (at 180 degrees) not
#: one circle.
SMALLEST_SINE = 1e-6


def slerp(one: "Tensor", other: "Tensor", t: float) -> "Tensor":
    """sin((1-t) o)/sin(o) w_1 + sin(t o)/sin(o) w_2, with o the angle between the tensors as vectors.

    o = 2 atan2(|u - v|, |u + v|) of the unit vectors u and v, which is exact for small angles, where
    arccos of their product is not (Kahan 2006, "How futile are mindless assessments of roundoff",
    section 12).

    Source: Shoemake 1985, doi:10.1145/325165.325242.
    """
    if t in (0, 1):
        return other if t else one
    lengths = [float(tensor.norm()) for tensor in (one, other)]
    if min(lengths) == 0:
        return average((one, other), (1 - t, t))
    u, v = one / lengths[0], other / lengths[1]
    angle = 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))
    sine = math.sin(angle)
    if sine < SMALLEST_SINE:
        return average((one, other), (1 - t, t))
    return (one * (math.sin((1 - t) * angle) / sine)).add_(other, alpha=math.sin(t * angle) / sine)
