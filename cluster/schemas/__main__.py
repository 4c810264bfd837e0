"""Write the schemas."""

from cluster.schemas import FOLDER, models, schema_text

if __name__ == "__main__":
    for name, model in models().items():
        (FOLDER / f"{name}.json").write_text(schema_text(model), encoding="utf-8")
