"""Chosen sub-networks measured outside a search, each once: kept, so that a killed call goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators import Evaluator
from nas_engine.execution.executor import InProcess
from nas_engine.execution.measuring import MeasurementPlan, S, Searchable
from nas_engine.ledger.identity import identity_of
from nas_engine.ledger.ledger import Ledger, Record
from nas_engine.ledger.storage import Storage
from nas_engine.progress import progress_bar
from search_spaces import Genome
from search_spaces.fingerprint import fingerprint_of


def measured(
    supernet: Searchable[S],
    evaluators: Sequence[Evaluator],
    genomes: Sequence[Genome],
    storage: Storage,
    purpose: str,
    title: str,
    progress: bool = True,
) -> list[Record]:
    """A record of each of `genomes`, out of `storage` or measured now.

    Args:
        supernet: whose sub-networks they are.
        evaluators: what measures.
        genomes: may hold one several times.
        storage: where records are kept, in a study of their own for each super-network and set of evaluators, so that
            no other data's are mistaken for them; None forgets them.
        purpose: the beginning of that study's name.
        title: of the bar.
        progress: show it.

    Raises:
        LedgerError: the storage cannot be written.
    """
    model = supernet.fingerprint()
    identity = identity_of(supernet.space, model, evaluators)
    digest = fingerprint_of(identity)
    ledger = Ledger(storage, supernet.space, model, evaluators, study=f"{purpose}-{digest}")
    different = list({tuple(genome.tolist()): genome for genome in genomes}.values())
    missing = [genome for genome in different if ledger.get(genome) is None]
    done = len(different) - len(missing)
    with progress_bar(title, len(different), enabled=progress, completed=done) as bar:
        for record in InProcess(MeasurementPlan(supernet, evaluators)).evaluate(missing, ()) if missing else ():
            ledger.append(record)
            bar.advance()
    records = [ledger.get(genome) for genome in genomes]
    return [record for record in records if record is not None]
