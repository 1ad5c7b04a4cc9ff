"""Settings of the noisy quadratic problem for tests, written to a store."""

import numpy as np

K = np.arange(1, 6)


LOSSES = {(0.1, 1e3): 1e-3, (0.1, 1e8): 1e-8, (0.5, 100.0): 1e-2}  # by (η, B): of one member


SLOPES = {"late_phase": -0.75, "full_multiplicative": -0.9, "full": -1.0}


THEORY = ("full_closed_form", "late_phase_prediction", "late_phase_prediction_2e7")


def add_setting(store, study, eta, B, loss, leave_out=()):
    series = {}
    for name, slope in SLOPES.items():
        series |= {f"members/{name}": loss * K**slope, f"members/{name}_se": 0.1 * loss * K**slope}
    series |= {f"members/{name}": loss / K for name in THEORY}
    metrics = {f"slope/{name}": slope for name, slope in SLOPES.items()}
    metrics |= {f"slope/{name}_se": 0.012 for name in SLOPES}
    series = {name: list(values) for name, values in series.items() if name not in leave_out}
    label = f"η = {eta:g}, B = {B:g}"
    run_id, _ = store.add(study, label, 0, metrics=metrics, series=series)
    for name, value in (("eta", eta), ("B", B)):
        store.client.log_param(run_id, name, value)
    return run_id
