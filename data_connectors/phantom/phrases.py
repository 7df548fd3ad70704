"""The words of the report grammar: alternatives in brackets, slots in braces.

`[a|b|]` picks one of its alternatives, `{name}` is a slot. Slots: grade (small, mild, ...),
gradely (mildly, ...), side, lobe, size (millimetres), cm, zone (which lungs), count, most (larger,
largest).
"""

# ruff: noqa: E501  (one phrase a line reads better than a wrapped one)

from __future__ import annotations

GRADE_WORDS: dict[str, str] = {
    "small": "small",
    "moderate": "[moderate|moderate|moderately sized]",
    "large": "large",
    "mild": "[mild|mild|slight]",
    "severe": "[severe|severe|marked]",
}
DEGREE_MODERATE = "moderate"
GRADE_ADVERBS = {
    "mild": "[mildly|slightly]",
    "moderate": "moderately",
    "severe": "[severely|markedly]",
}

PRESENT: dict[str, tuple[str, ...]] = {
    "nodule": (
        "[There is|Noted is] a {grade} [nodule|pulmonary nodule|lung nodule] in the {lobe}[ measuring {size} mm|].",
        "A {size} mm [nodule|pulmonary nodule|rounded nodule] is [seen|present|noted] in the {lobe}.",
        "{grade} [solid|well-defined|round] [nodule|lung nodule] in the {lobe}[, {size} mm|].",
        "In the {lobe} there is a [well-circumscribed|discrete|solid] nodule of {size} mm.",
    ),
    "nodules": (
        "[There are|Seen are] {count} {grade} [nodules|pulmonary nodules] in the {lobe}[, the {most} measuring {size} mm|].",
        "{count} [nodules|lung nodules] are [seen|present|noted] in the {lobe}, [up to|the {most}] {size} mm.",
        "{count} {grade} [round|well-defined|dense] nodules in the {lobe}.",
    ),
    "mass": (
        "[There is|Noted is] a {grade} [mass|lung mass|lobulated mass|spiculated mass] in the {lobe}[ measuring {cm} cm|].",
        "A {cm} cm [mass|pulmonary mass|irregular mass] is [seen|present|noted] in the {lobe}.",
        "{lobe} mass [with irregular margins|of {cm} cm|with lobulated margins].",
        "In the {lobe} there is a {grade} [irregular|ill-defined|lobulated] mass.",
    ),
    "consolidation": (
        "[There is|Noted is] {grade} [consolidation|airspace consolidation] in the {lobe}[ with air bronchograms|].",
        "{grade} [patchy|confluent|] consolidation [involving|of|in] the {lobe}.",
        "The {lobe} shows {grade} [consolidation|airspace consolidation].",
        "{lobe} consolidation, {grade}[, with air bronchograms|].",
    ),
    "pleural_effusion": (
        "[There is|Noted is] a {grade} {side} pleural effusion.",
        "{grade} {side}[-sided|] [pleural effusion|effusion][ is present| is seen|].",
        "A {grade} [pleural effusion|effusion] is [seen|present|noted] on the {side}.",
        "[Blunting of|Obscuration of] the {side} costophrenic angle by a {grade} pleural effusion.",
    ),
    "pleural_effusions": (
        "There are {grade} bilateral pleural effusions.",
        "{grade} bilateral [pleural effusions|effusions][ are present| are seen|].",
        "{grade} [pleural effusions|effusions] are [seen|present|noted] bilaterally.",
    ),
    "pneumothorax": (
        "[There is|Noted is] a {grade} {side} [pneumothorax|apical pneumothorax].",
        "{grade} {side}[-sided|] pneumothorax[ is present| is seen|].",
        "A {grade} pneumothorax is [seen|present|noted] on the {side}.",
        "A visceral pleural line is seen on the {side}, indicating a {grade} pneumothorax.",
    ),
    "cardiomegaly": (
        "[There is|Noted is] {grade} cardiomegaly.",
        "The [heart|cardiac silhouette] is {gradely} enlarged.",
        "{grade} [enlargement of the heart|enlargement of the cardiac silhouette|cardiomegaly].",
        "The heart size is {gradely} increased, in keeping with cardiomegaly.",
    ),
    "atelectasis": (
        "[There is|Noted is] {grade} [linear|plate-like|band-like|subsegmental|] atelectasis in the {lobe}.",
        "{grade} [linear|plate-like|band-like] atelectasis [of|in] the {lobe}[ with volume loss|].",
        "A band of {grade} atelectasis is [seen|present|noted] in the {lobe}.",
        "{lobe} atelectasis, {grade}[, with elevation of the hemidiaphragm|].",
    ),
    "emphysema": (
        "[There is|Noted is] {grade} emphysema {zone}.",
        "{grade} emphysematous changes {zone}[ with flattening of the diaphragm|].",
        "[Hyperinflation and|Lucent areas with] {grade} emphysema {zone}.",
        "{grade} [upper zone predominant|] emphysema {zone}.",
    ),
}

UNCERTAIN: dict[str, tuple[str, ...]] = {
    "nodule": (
        "A [subtle|faint] opacity in the {lobe} may represent a nodule.",
        "A [possible|questionable] {grade} nodule in the {lobe}.",
    ),
    "mass": ("Opacity in the {lobe}, [possibly|suspicious for] a mass.",),
    "consolidation": (
        "Faint opacity in the {lobe} may represent [early|mild] consolidation.",
        "[Possible|Questionable] {grade} consolidation in the {lobe}.",
    ),
    "pleural_effusion": (
        "A {grade} {side} pleural effusion cannot be excluded.",
        "[Possible|Questionable] {grade} {side} pleural effusion.",
    ),
    "pneumothorax": (
        "A {grade} {side} pneumothorax cannot be excluded.",
        "[Possible|Questionable] {grade} {side} pneumothorax.",
    ),
    "cardiomegaly": (
        "The heart is at the upper limit of normal, [possible|borderline] cardiomegaly.",
        "[Possible|Questionable] {grade} cardiomegaly.",
    ),
    "atelectasis": (
        "Linear opacity in the {lobe} may represent atelectasis.",
        "[Probable|Possible] {grade} atelectasis in the {lobe}.",
    ),
    "emphysema": ("[Possible|Suspected] {grade} emphysema {zone}.",),
}

NAMES: dict[str, str] = {
    "nodule": "[nodule|pulmonary nodule|lung nodule]",
    "mass": "[mass|lung mass|pulmonary mass]",
    "consolidation": "[consolidation|focal consolidation|airspace consolidation]",
    "pleural_effusion": "[pleural effusion|effusion|pleural effusion]",
    "pneumothorax": "pneumothorax",
    "cardiomegaly": "[cardiomegaly|cardiac enlargement]",
    "atelectasis": "atelectasis",
    "emphysema": "[emphysema|emphysematous change]",
}
ABSENT: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "The heart is [normal in size|not enlarged].",
        "Heart size is [normal|within normal limits].",
        "The cardiac silhouette is [not enlarged|normal in size].",
        "No cardiomegaly.",
    ),
}
NO_ONE = (
    "No {one}.",
    "There is no {one}.",
    "No evidence of {one}.",
    "No {one} is [seen|identified|present].",
    "[There is no evidence of|Negative for] {one}.",
)
NO_MORE = ("[Interval resolution|Complete resolution] of the [previous|] {one}.",)
"""For what comes and goes, where there is an earlier study."""
PASSING = ("pleural_effusion", "pneumothorax", "consolidation", "atelectasis")
NO_TWO = (
    "No {one} or {two}.",
    "No evidence of {one} or {two}.",
    "There is no {one} or {two}.",
    "Neither {one} nor {two} is [seen|identified].",
    "The lungs are [free of|without] {one} or {two}.",
)
NO_THREE = (
    "No {one}, {two} or {three}.",
    "There is no evidence of {one}, {two}, or {three}.",
)
NO_SIDE = "No {one} on the {side}."

BOILERPLATE = (
    "The trachea is [midline|central].",
    "The [bony thorax|visualised skeleton] is [intact|unremarkable].",
    "No acute [bony|osseous] abnormality.",
    "The mediastinal contours are [normal|unremarkable|within normal limits].",
    "The [hila|hilar contours] are [normal|unremarkable].",
    "The visualised upper abdomen is [unremarkable|normal].",
    "Mild degenerative changes of the thoracic spine.",
    "The soft tissues are [normal|unremarkable].",
    "The aorta is [unremarkable|of normal calibre].",
    "The central airways are patent.",
    "Technique is adequate.",
)
CLEAR = (
    "The lungs are [clear|well expanded and clear].",
    "[Clear lungs|Both lungs are clear].",
)
NORMAL_IMPRESSION = (
    "No acute cardiopulmonary [abnormality|process|disease].",
    "Normal [chest|examination|study].",
    "[Unremarkable|Normal] chest examination.",
    "No [significant|acute] abnormality.",
)
CHANGE = (
    "unchanged [from|since] the [prior|previous] [study|examination]",
    "new [since|compared with] the [prior|previous] [study|examination]",
    "[slightly|] increased since the [prior|previous] [study|examination]",
    "[slightly|] decreased since the [prior|previous] [study|examination]",
)
NO_COMPARISON = ("None.", "None available.", "No [prior|previous] [studies|examination] available.")
COMPARISON = (
    "[Chest examination|Chest radiograph|Study] of {date}.",
    "Prior [study|examination] dated {date} for {person}.",
    "{date}.",
)
FOLLOW_UP = (
    "Clinical correlation is recommended.",
    "Follow-up [imaging|examination] is [advised|recommended] in [three|six] months.",
    "Findings were [discussed with|reported to] Dr. {referring} by telephone.",
    "Correlate with signs & symptoms of heart failure or infection.",
)
