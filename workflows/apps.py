from django.apps import AppConfig


class WorkflowsConfig(AppConfig):
    name = "workflows"

    def ready(self) -> None:
        from jobs.hooks import on_input_use  # noqa: PLC0415 models exist only now
        from workflows import handlers, queries  # noqa: PLC0415

        handlers.register()
        on_input_use(queries.oldest_workflow)
