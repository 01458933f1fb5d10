"""What a dry run of Snakemake lists, as data."""

import re
from dataclasses import dataclass

Node = tuple[str, str]  # a rule and the backbone of the job, if it has one


@dataclass(frozen=True)
class Job:
    """A job of Snakemake's, as a dry run lists it."""

    rule: str
    backbone: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    @property
    def node(self) -> Node:
        return self.rule, self.backbone


def planned(listing: str) -> list[Job]:
    """The jobs that a dry run would do."""
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", listing)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block).group(1)
        inputs, outputs, wildcards = (
            frozenset(found.group(1).split(", ") if found else ())
            for found in (
                re.search(rf"^ +{key}: (.+)$", block, re.MULTILINE)
                for key in ("input", "output", "wildcards")
            )
        )
        backbone = next((w for w in wildcards if w.startswith("backbone=")), "")
        jobs.append(Job(rule, backbone.removeprefix("backbone="), inputs, outputs))
    return [job for job in jobs if job.rule != "all"]
