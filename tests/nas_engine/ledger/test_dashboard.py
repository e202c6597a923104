"""Optuna's dashboard opens our ledgers: trials, genes, values, directions and names are there."""

import pytest

from nas_engine.loop import search
from tests.ordered import EVALUATORS, Ordered, space_of

dashboard = pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard: pip install nas-engine[dashboard]")
pytestmark = pytest.mark.extras


def fetched(app, path: str) -> dict:
    """What the dashboard's own server answers, asked without a network."""
    import io
    import json

    status = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environment, lambda line, headers, *_: status.append(line)))
    assert status == ["200 OK"], body
    return json.loads(body)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_dashboard_shows_trials_genes_values_and_names(tmp_path, kind: str) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    ours = tmp_path if kind == "journal" else f"sqlite:///{tmp_path}/ledger.db"
    result = search(
        Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=20, population=8, storage=ours, progress=False
    )
    theirs = (
        optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "ledger.log")))
        if kind == "journal"
        else optuna.storages.RDBStorage(ours)
    )
    app = dashboard.wsgi(theirs)
    (study,) = fetched(app, "/api/studies")["study_summaries"]
    assert study["study_name"] == "nas-engine"
    assert study["directions"] == ["maximize", "minimize"]
    detail = fetched(app, f"/api/studies/{study['study_id']}")
    assert detail["objective_names"] == ["accuracy", "latency"]
    assert len(detail["trials"]) == 20
    for trial, (_, row) in zip(detail["trials"], result.frame.iterrows(), strict=True):
        assert trial["state"] == "Complete"
        assert trial["values"] == pytest.approx([row["accuracy"], row["latency"]])
        shown = {param["name"]: float(param["param_external_value"]) for param in trial["params"]}
        assert shown == {name: row[name] for name in space_of().names}
