"""What can go wrong between an image's name and a started container.

    RuntimeFailure
    ├── RuntimeMissing          the node lacks the runtime or something it needs
    ├── ContainerNotPrepared    the image is there, the container could not be made
    └── ImagePullFailed         the network or the server is at fault, or nobody knows
        ├── ImageNotFound         the registry, server or disk does not have it
        ├── ImageDenied           it may exist, but not for this credential (or for no credential)
        ├── ImageUnusable         no image, a damaged one, or one that this runtime or machine cannot run
        ├── ImageRateLimited      the registry wants fewer requests, for longer than a pull waits
        ├── RegistryAway          nobody answers at this address, or only with errors of its own
        └── NoSpace               this node's disk is full

Branch on the class or its `code`, which for images is a word of `worker.protocol.EndReason`. The text is
for people and never contains a credential.
"""


class RuntimeFailure(Exception):
    """Base of all failures of this package."""

    code = "runtimeFailure"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RuntimeMissing(RuntimeFailure):
    """The node lacks the runtime or something it needs."""

    code = "runtimeMissing"


class ContainerNotPrepared(RuntimeFailure):
    """The image is there, but the container could not be made from it."""

    code = "containerNotPrepared"


class ImagePullFailed(RuntimeFailure):
    """The image could not be fetched or unpacked; asking again may help."""

    code = "imagePull"


class ImageNotFound(ImagePullFailed):
    """The registry, the server or the disk does not have the image."""

    code = "imageNotFound"


class ImageDenied(ImagePullFailed):
    """The image is refused to this credential, or to no credential at all."""

    code = "imageDenied"


class ImageUnusable(ImagePullFailed):
    """It is no image, is damaged, or has a form that this runtime or machine cannot run."""

    code = "imageUnusable"


class ImageRateLimited(ImagePullFailed):
    """The registry said 429 for longer than a pull waits."""

    code = "imageRateLimited"


class RegistryAway(ImagePullFailed):
    """The registry or server cannot be reached, or fails."""

    code = "imageRegistryAway"


class NoSpace(ImagePullFailed):
    """This node has no room for the image."""

    code = "imageNoSpace"
