"""All inputs."""

from tests.harness.cli.bad_inputs.command_lines import COMMAND_LINES
from tests.harness.cli.bad_inputs.environments import ENVIRONMENTS
from tests.harness.cli.bad_inputs.plugins import PLUGINS
from tests.harness.cli.bad_inputs.study_texts import STUDY_TEXTS

INPUTS = [*STUDY_TEXTS, *PLUGINS, *COMMAND_LINES, *ENVIRONMENTS]
