"""Serve applications as serving/deploy/serve_config.py makes them, without student folders."""

from ray.serve.schema import ServeApplicationSchema

OTHER = ServeApplicationSchema(name="shop", import_path="shop:app", route_prefix="/shop")
"""An application of somebody else."""


def applications(
    *students: str, shared: bool = False, setting: int = 1, folder: str = "/s"
) -> list[ServeApplicationSchema]:
    """The ingress, then the students'. `setting`: what the students' args also hold."""
    serving = {"max_batch_size": setting}
    folders = {student: f"{folder}/{student}" for student in students}
    user_config = {"students": folders, "fingerprints": {student: f"{folder}{student}" for student in students}}
    ingress = ServeApplicationSchema(
        name="raystill", route_prefix="/", import_path="serving.app:ingress", args={"serving": {"port": 8000}},
        deployments=[{"name": "ingress", "user_config": user_config}],
    )  # fmt: skip
    if shared:
        named = {"raystill-students": {**user_config, "serving": serving}}
    else:
        named = {
            f"raystill-student-{student}": {"student": student, "folder": folders[student], "serving": serving}
            for student in students
        }
    return [
        ingress,
        *(
            ServeApplicationSchema(name=name, route_prefix=None, import_path="serving.app:student", args=args)
            for name, args in named.items()
        ),
    ]
