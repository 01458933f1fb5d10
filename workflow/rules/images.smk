rule prepare_images:
    output:
        "data/manifest.parquet",
        "data/skipped.csv",
        "data/record.json",
        expand("data/images/{split}/index.json", split=SPLITS),
    log:
        "logs/prepare_images.log",
    benchmark:
        "logs/prepare_images.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    params:
        version=version_of("prepare_images"),
        parameters=parameters_of("prepare_images"),
    shell:
        "launch 1 1 stages.prepare_images 2>&1 | tee {log}"
