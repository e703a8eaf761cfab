"""What can go wrong between an image's name and a started container.

    RuntimeFailure
    ├── RuntimeMissing          the node lacks the runtime or something it needs
    ├── ContainerNotPrepared    the image is there, the container could not be made
    └── ImagePullFailed
        ├── ImageNotFound         the registry, server or disk does not have it
        ├── AuthenticationFailed  it may exist, but not for this credential (or for no credential)
        └── ImageNotSupported     a form of image or name that this runtime cannot run

Branch on the class or its `code`. The text is for people and never contains a credential.
"""


class RuntimeFailure(Exception):
    """Base of all failures of this package; `retryable` means the same request may work later."""

    code = "runtimeFailure"
    retryable = False

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
    """The image could not be fetched or unpacked; the network or the server may be at fault."""

    code = "imagePullFailed"
    retryable = True


class ImageNotFound(ImagePullFailed):
    """The registry, the server or the disk does not have the image."""

    code = "imageNotFound"
    retryable = False


class AuthenticationFailed(ImagePullFailed):
    """The image is refused to this credential, or to no credential at all."""

    code = "imageAuthenticationFailed"
    retryable = False


class ImageNotSupported(ImagePullFailed):
    """This runtime cannot run images of this form."""

    code = "imageNotSupported"
    retryable = False
