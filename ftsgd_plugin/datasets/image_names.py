"""Which files of a directory are images, and which directories hold none."""

SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')  # torchvision's IMG_EXTENSIONS
OTHER_IMAGES = ('.gif', '.avif', '.heic', '.heif', '.jfif', '.jpe', '.jp2', '.apng', '.ico', '.pbm', '.pnm', '.tga')
# What archives, file managers and network storage leave behind, beside names that begin with a dot.
NO_DIRECTORIES = ('__MACOSX', '__pycache__', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'lost+found')


def is_hidden(name: str) -> bool:
    """Whether a file or directory is not part of the data: ``.ipynb_checkpoints``, ``__MACOSX``, ``.DS_Store``."""
    return name.startswith('.') or name in NO_DIRECTORIES
