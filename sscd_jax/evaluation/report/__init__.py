"""Charts and pages of evaluations, which need the extra `report`."""

try:
    import jinja2 as jinja2
    import matplotlib as matplotlib
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: pip install 'sscd_jax[report]'", name=error.name) from error
