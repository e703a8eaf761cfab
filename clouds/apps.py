from django.apps import AppConfig


class CloudsConfig(AppConfig):
    name = "clouds"

    def ready(self) -> None:
        from clouds import capacity, checks, offers  # noqa: PLC0415 models exist only now
        from jobs import hooks  # noqa: PLC0415

        hooks.on_placements_ended(capacity.release)
        offers.register()
        checks.register()
