"""What a picture's mean brightness says about the findings: next to nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from data_connectors.phantom.anatomy import draw_anatomy
from data_connectors.phantom.findings import CONCEPTS, draw_findings
from data_connectors.phantom.grid import Grid
from data_connectors.phantom.radiograph import draw_exposure, expose, projection_grid
from data_connectors.phantom.render import render
from data_connectors.phantom.scanner import acquire, draw_scan
from data_connectors.phantom.seeds import stream


def macro_auc(feature: np.ndarray, labels: np.ndarray) -> float:
    """Cross-validated linear probe on one number, mean over the findings."""
    x = ((feature - feature.mean()) / feature.std())[:, None]
    aucs = []
    for column in labels.T:
        model = LogisticRegression(C=100.0)
        scores = cross_val_predict(model, x, column, cv=5, method="decision_function")
        aucs.append(roc_auc_score(column, scores))
    return float(np.mean(aucs))


@pytest.fixture(scope="module")
def means() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the radiograph, mean of the CT, labels; of 150 patients on coarse grids."""
    pictures, volumes, labels = [], [], []
    for index in range(150):
        acquisition = stream(8, "patient", index, "acquisition")
        body = draw_anatomy(stream(8, "patient", index, "anatomy"))
        findings = draw_findings(stream(8, "patient", index, "findings"), body)
        noise = stream(8, "patient", index, "noise")
        scan = draw_scan(acquisition, body, size=48)
        stored = acquire(render(body, findings, scan.grid).hu, scan, noise)
        volumes.append(stored.mean() * scan.slope + scan.intercept)
        fine = projection_grid(body.half_width, body.half_depth)
        coarse = Grid(
            (58, fine.shape[1] // 2, fine.shape[2] // 2),
            tuple(2 * s for s in fine.spacing_mm),  # type: ignore[arg-type]
            fine.origin_mm,
        )
        exposure = draw_exposure(acquisition, body.half_width)
        pictures.append(expose(render(body, findings, coarse), exposure, noise).mean())
        own = {finding.concept for finding in findings}
        labels.append([concept in own for concept in CONCEPTS])
    return np.array(pictures), np.array(volumes), np.array(labels)


@pytest.mark.slow
def test_mean_intensity_of_the_radiograph_is_no_shortcut(
    means: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    assert macro_auc(means[0], means[2]) < 0.65


@pytest.mark.slow
def test_mean_intensity_of_the_ct_is_no_shortcut(
    means: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    assert macro_auc(means[1], means[2]) < 0.65
