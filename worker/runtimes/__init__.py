"""How a task's container is fetched and run: Apptainer ("singularity"), udocker, plain processes.

Owned here: image names, downloads, turning an image into something that starts fast, and the command
line and environment of a container. Never here: the order of tasks, files of a job, log streams; no
Django, and nothing beyond the standard library, because shims fork with all of it loaded.
"""
