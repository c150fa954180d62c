"""The script that MLflow runs to load a model, in place of unpickling it."""

from mlflow.models import set_model


def declare() -> None:
    """Tell MLflow which object the model is."""
    from minivess.tracking.run.model import Segmenter

    set_model(Segmenter())


# MLflow runs this file under another name than the package's; importing it does nothing.
if __name__ != "minivess.tracking.run.model_code":
    declare()
