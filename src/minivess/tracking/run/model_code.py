"""Script that MLflow runs to load a model instead of unpickling it."""

from mlflow.models import set_model


def declare() -> None:
    """Declare the model object to MLflow."""
    from minivess.tracking.run.model import Segmenter

    set_model(Segmenter())


# MLflow runs this file under another name than the package's; importing it does nothing.
if __name__ != "minivess.tracking.run.model_code":
    declare()
