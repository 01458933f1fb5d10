TRAINING = expand(
    "adapters/{backbone}/{adapter}/training.json",
    backbone=COMPARE.backbones,
    adapter=COMPARE.adapters,
)

DECODERS = expand(
    "decoders/{backbone}/{decoder}/record.json",
    backbone=COMPARE.backbones,
    decoder=COMPARE.decoders,
)


# Trainings take longest: begun as soon as they can be, they leave short jobs to fill the cores at
# the end.
rule train_adapter:
    input:
        MANIFEST,
        expand("latents/{split}/index.json", split=("train", "val")),
        expand("features/{{backbone}}/{split}/index.json", split=("train", "val")),
        "models/backbones/{backbone}/model.safetensors",
        PRIOR,
    output:
        "adapters/{backbone}/{adapter}/config.json",
        "adapters/{backbone}/{adapter}/adapter.safetensors",
        "adapters/{backbone}/{adapter}/training.json",
        "adapters/{backbone}/{adapter}/record.json",
    log:
        "logs/train_adapter/{backbone}-{adapter}.log",
    benchmark:
        "logs/train_adapter/{backbone}-{adapter}.benchmark.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("train_adapter"),
        parameters=parameters_of("train_adapter"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.train_adapter --backbone {wildcards.backbone}"
        " --adapter {wildcards.adapter} 2>&1 | tee {log}"


rule train_decoder:
    input:
        "data/images/train/index.json",
        MANIFEST,
        "features/{backbone}/train/index.json",
        "models/backbones/{backbone}/model.safetensors",
    output:
        "decoders/{backbone}/{decoder}/config.json",
        "decoders/{backbone}/{decoder}/decoder.safetensors",
        "decoders/{backbone}/{decoder}/training.json",
        "decoders/{backbone}/{decoder}/record.json",
    log:
        "logs/train_decoder/{backbone}-{decoder}.log",
    benchmark:
        "logs/train_decoder/{backbone}-{decoder}.benchmark.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("train_decoder"),
        parameters=parameters_of("train_decoder"),
    shell:
        "launch 1 1 stages.train_decoder --backbone {wildcards.backbone}"
        " --decoder {wildcards.decoder} 2>&1 | tee {log}"
