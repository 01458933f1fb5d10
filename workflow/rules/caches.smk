rule cache_latents:
    input:
        expand("data/images/{split}/index.json", split=SPLITS),
        "models/autoencoder/config.json",
        "models/autoencoder/diffusion_pytorch_model.safetensors",
    output:
        expand("latents/{split}/index.json", split=SPLITS),
        "latents/round_trip/index.json",
        "latents/record.json",
    log:
        "logs/cache_latents.log",
    benchmark:
        "logs/cache_latents.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("cache_latents"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.cache_latents 2>&1 | tee {log}"


rule cache_features:
    input:
        expand("data/images/{split}/index.json", split=SPLITS),
        "models/backbones/{backbone}/config.json",
        "models/backbones/{backbone}/model.safetensors",
    output:
        expand("features/{{backbone}}/{split}/index.json", split=SPLITS),
        "features/{backbone}/record.json",
    log:
        "logs/cache_features/{backbone}.log",
    benchmark:
        "logs/cache_features/{backbone}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("cache_features"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.cache_features --backbone {wildcards.backbone} 2>&1 | tee {log}"
