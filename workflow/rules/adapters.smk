rule train_adapter:
    input:
        expand("latents/{split}/index.json", split=("train", "val")),
        expand("features/{{backbone}}/{split}/index.json", split=("train", "val")),
        f"models/prior/{UNET}",
    output:
        "adapters/{backbone}/{adapter}/config.json",
        "adapters/{backbone}/{adapter}/adapter.safetensors",
        "adapters/{backbone}/{adapter}/training.json",
        "adapters/{backbone}/{adapter}/record.json",
    log:
        "logs/train_adapter/{backbone}-{adapter}.log",
    benchmark:
        "logs/train_adapter/{backbone}-{adapter}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=code_version("stages.train_adapter"),
        settings=lambda w: settings("seed", f"adapters.{w.adapter}"),
    shell:
        "python -m stages.train_adapter --backbone {wildcards.backbone}"
        " --adapter {wildcards.adapter} 2>&1 | tee {log}"
