"""Maximum likelihood estimates known to more digits than the tests ask for, and the tables that
they belong to.

Computed in extended precision (the score is below 1e-14), and checked with R 4.2 and with
statsmodels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import statsmodels.api as sm
from sklearn.datasets import load_iris

EXAMPLES = Path(__file__).parents[1] / "examples"


class Truth(NamedTuple):
    """A softmax regression: its table, coefficients and errors of each class but the first."""

    response: str
    columns: tuple[str, ...]  # without the constant
    coef: list[list[float]]  # the constant first
    standard_errors: list[list[float]]
    log_likelihood: float
    null_log_likelihood: float


ANES96 = Truth(
    response="PID",
    columns=("logpopul", "selfLR", "age", "educ", "income"),
    coef=[
        [
            -0.3734016773584835,
            -0.011535974566688733,
            0.2977143515893802,
            -0.02494499544199853,
            0.08249144213934344,
            0.005196553172511104,
        ],
        [
            -2.250913176838135,
            -0.08875065303049165,
            0.39166864173237903,
            -0.022897837092989336,
            0.18104275751333768,
            0.047873976087540536,
        ],
        [
            -3.6655835302145365,
            -0.10596669898687452,
            0.5734505077646274,
            -0.01485120688462314,
            -0.007152419042284703,
            0.0575751595413684,
        ],
        [
            -7.613843090444814,
            -0.0915567016926665,
            1.2787717866111992,
            -0.008681345030114309,
            0.19982795531997882,
            0.08449837525052152,
        ],
        [
            -7.0604782464988975,
            -0.09328460395733387,
            1.346961645707599,
            -0.01790406894705919,
            0.2169388498804481,
            0.08095841215599181,
        ],
        [
            -12.105750900463383,
            -0.14088069240150147,
            2.070080135041491,
            -0.009432648701394711,
            0.32192570241595214,
            0.1088940832864796,
        ],
    ],
    standard_errors=[
        [
            0.6298376310105531,
            0.0342823658110639,
            0.09362679502184246,
            0.006524858401442125,
            0.07358657988767993,
            0.017633693744604273,
        ],
        [
            0.7631899489500921,
            0.03916155543879168,
            0.10823869188600949,
            0.007914461759523435,
            0.08528935631102369,
            0.022280929659885478,
        ],
        [
            1.1565414923490056,
            0.057038229484886224,
            0.1585481336962325,
            0.011331313319906802,
            0.12629132336960103,
            0.033614208799949356,
        ],
        [
            0.9575809602052743,
            0.043790276599378564,
            0.12889658542189392,
            0.008418748605064513,
            0.09412505594298522,
            0.026196363245990426,
        ],
        [
            0.844363828320835,
            0.03935165544699494,
            0.11718601074060733,
            0.007611015222701234,
            0.08500700913407189,
            0.022976079072851565,
        ],
        [
            1.0599548213527399,
            0.04213804711478218,
            0.14340890904272438,
            0.00813386247787957,
            0.09109799207841553,
            0.025300888026469102,
        ],
    ],
    log_likelihood=-1461.9227472481462,
    null_log_likelihood=-1750.3467099898219,
)

SPECTOR = Truth(
    response="GRADE",
    columns=("GPA", "TUCE", "PSI"),
    coef=[
        [
            -13.02134685811569,
            2.8261125948893215,
            0.0951576613179093,
            2.378687655093354,
        ],
    ],
    standard_errors=[
        [
            4.931324213602732,
            1.262941075629083,
            0.14155420567369542,
            1.0645642544971312,
        ],
    ],
    log_likelihood=-12.889634222131415,
    null_log_likelihood=-20.591729696617293,
)

# Species by four measurements: setosa lies apart, so that the likelihood only has a supremum.
IRIS_SUPREMUM = -5.9492734
# Versicolor against virginica alone, in 40 digits: (estimate, standard error) of the constant and
# the four columns.
IRIS_PAIR = [
    (-42.637803813021990, 25.7076608331618507),
    (-2.46522019518665993, 2.39430101853521483),
    (-6.68088701407854914, 4.47956456660094534),
    (9.42938515392663666, 4.73720770031653628),
    (18.2861368878509859, 9.74261213982679597),
]


def anes96() -> pd.DataFrame:
    """The American National Election Study of 1996: 944 people, party identification from 0 to
    6.
    """
    return pd.read_csv(EXAMPLES / "anes96.csv")


def spector() -> pd.DataFrame:
    """Spector and Mazzeo (1980): 32 students, whether their grade improved."""
    return sm.datasets.spector.load_pandas().data


def iris() -> pd.DataFrame:
    """Anderson's irises: four measurements of 150 flowers, and their species by name."""
    found = load_iris(as_frame=True)
    return found.data.assign(species=found.target_names[found.target])
