from django.apps import AppConfig


class WorkflowsConfig(AppConfig):
    name = "workflows"

    def ready(self) -> None:
        from workflows import handlers  # noqa: PLC0415 models exist only now

        handlers.register()
