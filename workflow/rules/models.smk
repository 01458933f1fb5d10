# Networks: imported where params.yaml names a source, trained on the train split where it says so.
IMAGES = [f"data/images/{split}/index.json" for split in ("train", "val")]
MANIFEST = "data/manifest.parquet"
PRIOR = [str(file) for file in PRIOR_FILES]


rule make_backbone:
    input:
        IMAGES,
        MANIFEST,
        lambda w: shipped(SETTINGS.backbones[w.backbone].source, "model.safetensors"),
    output:
        "models/backbones/{backbone}/config.json",
        "models/backbones/{backbone}/model.safetensors",
        "models/backbones/{backbone}/record.json",
    log:
        "logs/make_backbone/{backbone}.log",
    benchmark:
        "logs/make_backbone/{backbone}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("make_backbone"),
        parameters=parameters_of("make_backbone"),
    shell:
        "launch 1 1 stages.make_backbone --backbone {wildcards.backbone} 2>&1 | tee {log}"


rule make_autoencoder:
    input:
        IMAGES,
        MANIFEST,
        shipped_autoencoder(),
    output:
        "models/autoencoder/config.json",
        "models/autoencoder/diffusion_pytorch_model.safetensors",
        "models/autoencoder/record.json",
    log:
        "logs/make_autoencoder.log",
    benchmark:
        "logs/make_autoencoder.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("make_autoencoder"),
        parameters=parameters_of("make_autoencoder"),
    shell:
        "launch 1 1 stages.make_autoencoder 2>&1 | tee {log}"


rule make_prior:
    input:
        IMAGES,
        MANIFEST,
        "models/autoencoder/diffusion_pytorch_model.safetensors",
        "latents/train/index.json",
        shipped_prior(),
    output:
        PRIOR,
        "models/prior/record.json",
    log:
        "logs/make_prior.log",
    benchmark:
        "logs/make_prior.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        nodes=1,
        processes=1,
    params:
        version=version_of("make_prior"),
        parameters=parameters_of("make_prior"),
    shell:
        "launch {resources.nodes} {resources.processes} stages.make_prior 2>&1 | tee {log}"


rule make_segmenter:
    input:
        IMAGES,
        MANIFEST,
        lambda w: shipped(
            SETTINGS.segmenters[w.segmenter].source,
            "diffusion_pytorch_model.safetensors",
            "config.json",
        ),
    output:
        "models/segmenters/{segmenter}/config.json",
        "models/segmenters/{segmenter}/diffusion_pytorch_model.safetensors",
        "models/segmenters/{segmenter}/record.json",
    log:
        "logs/make_segmenter/{segmenter}.log",
    benchmark:
        "logs/make_segmenter/{segmenter}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=version_of("make_segmenter"),
        parameters=parameters_of("make_segmenter"),
    shell:
        "launch 1 1 stages.make_segmenter --segmenter {wildcards.segmenter} 2>&1 | tee {log}"
