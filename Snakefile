# SACD: from images to tables and figures. `snakemake` here runs the embedded experiment,
# `snakemake --directory experiments/NAME` another one; params.yaml there says what it computes.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/caches.smk"
include: "workflow/rules/adapters.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/robustness.smk"
include: "workflow/rules/concepts.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/results.smk"


report: "workflow/report/workflow.rst"


# DVC takes the parameters that it records from the file, after the run.
onsuccess:
    if PLANS and not still_planned():
        raise WorkflowError(
            "params.yaml was changed during this run, which used it as it was at the start: run "
            "again, and what depends on the change is made anew."
        )


localrules:
    all,
    models,
    caches,
    make_tables,
    plot_figures,
    plot_robustness,
    plot_layers,
    plot_concepts,
    plot_edits,
    plot_disentanglement,
    write_report,


MODELS = [
    *(f"models/backbones/{name}/record.json" for name in COMPARE.networks),
    *(f"models/segmenters/{name}/record.json" for name in COMPARE.segmenters),
    "models/prior/record.json",
]


# An experiment that compares no methods is for its models.
rule all:
    default_target: True
    input:
        "results/report.html" if COMPARE.methods else MODELS,
        [f"results/sweeps/{name}.record.json" for name in COMPARE.sweeps],
        [f"results/robustness/{name}.record.json" for name in COMPARE.disturbances],
        [f"results/layers/{name}.record.json" for name in COMPARE.layers],
        [f"results/concepts/{name}.record.json" for name in COMPARE.concepts],
        [f"results/edits/{name}.record.json" for name in COMPARE.edits],
        [f"results/disentanglement/{name}.record.json" for name in COMPARE.disentangled],
        [f"models/probes/{name}/record.json" for name in COMPARE.probes],


rule models:
    input:
        MODELS,


rule caches:
    input:
        expand("latents/{name}/index.json", name=[*SPLITS, "round_trip"]),
        expand("features/{name}/{split}/index.json", name=COMPARE.networks, split=SPLITS),
