from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        from jobs import checks, retention  # noqa: PLC0415
        from jobs.queries import is_alive  # noqa: PLC0415 models exist only now
        from prominence.auth import on_job_token  # noqa: PLC0415

        on_job_token(is_alive)
        checks.register()
        retention.register()
