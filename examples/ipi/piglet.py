"""Write the PIGLET thermostat of an i-PI input: 8 beads converge what needs 32 and more with a white-noise thermostat.

    python piglet.py 300 > thermostat.xml

prints the <thermostat> element for 8 beads at the given temperature in K. The coloured noise of the internal modes is
the fit of M. Ceriotti and D. E. Manolopoulos, Phys. Rev. Lett. 109, 100604 (2012), doi:10.1103/PhysRevLett.109.100604,
for 8 beads, whose numbers (for 298 K) i-PI's examples quote from gle4md.org. Frequencies scale with temperature. The
centroid, a classical mode, has the coloured noise that goes with it: a weaker thermostat, such as white noise with a
relaxation time of 100 fs, does not take away the heat that flows from the internal modes to the slow ones.
"""

from __future__ import annotations

import sys

import numpy as np

N_BEADS = 8
FITTED_FOR = 298.0  # K

# Drift of the centroid in inverse atomic units of time, by rows.
CENTROID = (
    (1.300513766690e-2, 9.078220950722e-6, 8.180522706851e-6, 1.196620464216e-5, 1.108609196233e-4,
     -8.941338246404e-4, 7.817382329484e-3, -1.206049888192e-2, -5.215913547478e-2),
    (-9.756343549369e-6, 2.131200614277e-7, 2.972243541454e-6, -4.459298032276e-6, 2.177011229810e-7,
     4.960251269751e-7, -2.083064995647e-6, -7.004617074013e-6, 2.299410255689e-5),
    (-1.851243089560e-6, -2.972243541454e-6, 1.956991859501e-6, 1.742357040415e-6, -2.082265548357e-6,
     -1.760771137012e-6, -3.733162998255e-6, -3.711884630223e-5, -3.625483838477e-5),
    (1.492481502899e-5, 4.459298032276e-6, -1.742357040415e-6, 5.092476869103e-6, 2.033910859306e-6,
     5.856365217540e-7, -3.020170664006e-6, 1.868034354962e-5, -5.049113665348e-6),
    (1.059383195368e-4, -2.177011229810e-7, 2.082265548357e-6, -2.033910859306e-6, 5.467813757620e-5,
     -6.684243951800e-6, -9.770331146786e-7, -2.159991642805e-4, 4.667176340213e-4),
    (-7.611448585233e-4, -4.960251269751e-7, 1.760771137012e-6, -5.856365217540e-7, 6.684243951800e-6,
     6.616597356640e-4, -1.637891086976e-6, -2.056652206438e-4, 2.960975881160e-4),
    (7.659946833472e-3, 2.083064995647e-6, 3.733162998255e-6, 3.020170664006e-6, 9.770331146786e-7,
     1.637891086976e-6, 6.390977118535e-3, -6.246090363901e-5, 5.054994461623e-4),
    (-1.078245092236e-2, 7.004617074013e-6, 3.711884630223e-5, -1.868034354962e-5, 2.159991642805e-4,
     2.056652206438e-4, 6.246090363901e-5, 1.730397061203e-1, 1.004651317366e-4),
    (-5.467410217589e-2, -2.299410255689e-5, 3.625483838477e-5, 5.049113665348e-6, -4.667176340213e-4,
     -2.960975881160e-4, -5.054994461623e-4, -1.004651317366e-4, 1.795223909984e0),
)  # fmt: skip
# Drift of the internal modes, in the same units: a friction of the momentum, and four damped oscillators coupled to it.
FRICTION = 8.433361179684e-6
COUPLINGS = (5.985771048989e-3, 1.106850007061e-2, 4.737897597685e-3, 2.344265458323e-4)
DAMPINGS = (9.461326310093e-2, 1.488504300030e-2, 3.514677295700e-2, 2.199180080880e-4)
FREQUENCIES = (9.829968606252e-3, 4.214899343968e-3, 8.541932660186e-3, 3.798554823700e-3)
REST = 1.889231157037e-14  # keeps the second variable of each oscillator damped

# Their covariance in K, upper triangle by rows.
COVARIANCE = (
    (2698.549372188, -1368.081060516, -3209.415830440, 873.865836514, 726.803928088, -251.3005676292, -415.0754888640,
     -1260.054684948, -644.8165752780),
    (29655.86458180, 5.268769597220e-8, -5.555628715240, 497.2346413560, -59.24916939780, 107.5269335280,
     -83.18280168320, -1.172679285326),
    (27701.55230160, -1159.648313612, -4345.682898960, -123.7408936636, -1339.182640444, 3.034680577260,
     -413.5056752260),
    (1243.175060816, 1.278480055046e-8, 59.70691220840, -252.0026819128, -934.7295856760, -429.2224714720),
    (3151.792246900, 124.3472620074, -79.04812686860, 476.2678432220, -1019.900735322),
    (5255.446383760, 1.045563267562e-8, -172.5915110312, -4.871461433960),
    (5025.219194680, 10.95461232690, -414.3625581340),
    (64119.89938480, 3.172261366260e-7),
    (64080.10473300,),
)  # fmt: skip


def matrices(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The drift A [8, 9, 9] in inverse atomic units of time and the covariance C [8, 9, 9] in K, centroid first."""
    size = 1 + 2 * len(COUPLINGS)
    drift, covariance = np.zeros((2, size, size))
    drift[0, 0] = FRICTION
    for k, (coupling, damping, frequency) in enumerate(zip(COUPLINGS, DAMPINGS, FREQUENCIES, strict=True)):
        one, two = 2 * k + 1, 2 * k + 2
        drift[one, one], drift[two, two] = damping, REST
        drift[0, one], drift[one, 0] = coupling, -coupling
        drift[one, two], drift[two, one] = frequency, -frequency
    for k, row in enumerate(COVARIANCE):
        covariance[k, k:] = covariance[k:, k] = row
    scale = temperature / FITTED_FOR
    drifts = np.stack([np.array(CENTROID)] + [drift * scale] * (N_BEADS - 1))
    covariances = np.stack([np.eye(size) * N_BEADS * temperature] + [covariance * scale] * (N_BEADS - 1))
    return drifts, covariances


def element(temperature: float) -> str:
    """The <thermostat> element."""
    drifts, covariances = matrices(temperature)

    def text(values: np.ndarray) -> str:
        rows = ",\n".join(
            "            " + ", ".join(f"{x:.12e}" if x else "0" for x in row) for row in values.reshape(-1, 9)
        )
        return f"[\n{rows} ]"

    shape = f"shape='({N_BEADS},9,9)'"
    return f"""\
        <thermostat mode='nm_gle'>
          <A {shape}> {text(drifts)} </A>
          <C {shape} units='kelvin'> {text(covariances)} </C>
        </thermostat>"""


if __name__ == "__main__":
    print(element(float(sys.argv[1])))
