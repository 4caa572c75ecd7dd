"""The recipes: one function per run, whose keywords change its most frequent settings; sizes as a table.

A recipe for stage one is called NAME-encoder, those for stage two NAME-diffusion and NAME-onestep. NAME-onestep-paper has the
published objective where NAME-onestep has a better one. Each runs as `pixelpath train NAME --data PATH --out RUN`. Stage two
begins with a finished stage one (`encoder`), a one-step recipe also with a finished diffusion run (`init_from`), or from scratch.
"""

from pixelpath.recipes import sizes as sizes
from pixelpath.recipes.changes import RecipeFunction as RecipeFunction
from pixelpath.recipes.digits import (
    digits_diffusion as digits_diffusion,
)
from pixelpath.recipes.digits import (
    digits_encoder as digits_encoder,
)
from pixelpath.recipes.digits import (
    digits_onestep as digits_onestep,
)
from pixelpath.recipes.digits import (
    digits_onestep_paper as digits_onestep_paper,
)
from pixelpath.recipes.imagenet import (
    imagenet256_b_encoder as imagenet256_b_encoder,
)
from pixelpath.recipes.imagenet import (
    imagenet256_g_diffusion as imagenet256_g_diffusion,
)
from pixelpath.recipes.imagenet import (
    imagenet256_l_diffusion as imagenet256_l_diffusion,
)
from pixelpath.recipes.imagenet import (
    imagenet256_l_encoder as imagenet256_l_encoder,
)
from pixelpath.recipes.imagenet import (
    imagenet256_l_onestep as imagenet256_l_onestep,
)
from pixelpath.recipes.imagenet import (
    imagenet256_xl_diffusion as imagenet256_xl_diffusion,
)
from pixelpath.recipes.imagenet import (
    imagenet256_xxl_diffusion as imagenet256_xxl_diffusion,
)
from pixelpath.recipes.imagenet import (
    imagenet512_b_encoder as imagenet512_b_encoder,
)
from pixelpath.recipes.imagenet import (
    imagenet512_l_diffusion as imagenet512_l_diffusion,
)
from pixelpath.recipes.imagenet import (
    imagenet512_l_encoder as imagenet512_l_encoder,
)
from pixelpath.recipes.small import (
    cifar10_diffusion as cifar10_diffusion,
)
from pixelpath.recipes.small import (
    cifar10_encoder as cifar10_encoder,
)
from pixelpath.recipes.small import (
    cifar10_onestep as cifar10_onestep,
)
from pixelpath.recipes.small import (
    cifar10_onestep_paper as cifar10_onestep_paper,
)
from pixelpath.recipes.small import (
    cpu_32_diffusion as cpu_32_diffusion,
)
from pixelpath.recipes.small import (
    cpu_32_onestep as cpu_32_onestep,
)
from pixelpath.recipes.small import (
    cpu_64_diffusion as cpu_64_diffusion,
)
from pixelpath.recipes.small import (
    cpu_64_onestep as cpu_64_onestep,
)
from pixelpath.recipes.small import (
    small_32_diffusion as small_32_diffusion,
)
from pixelpath.recipes.small import (
    small_32_encoder as small_32_encoder,
)
from pixelpath.recipes.small import (
    small_32_onestep as small_32_onestep,
)
from pixelpath.recipes.small import (
    small_32_onestep_paper as small_32_onestep_paper,
)
from pixelpath.recipes.small import (
    small_64_diffusion as small_64_diffusion,
)
from pixelpath.recipes.small import (
    small_64_encoder as small_64_encoder,
)
from pixelpath.recipes.small import (
    small_64_onestep as small_64_onestep,
)
from pixelpath.recipes.small import (
    small_64_onestep_paper as small_64_onestep_paper,
)

RECIPES: dict[str, RecipeFunction] = {
    make().name: make
    for make in (
        digits_encoder,
        digits_diffusion,
        digits_onestep,
        small_32_encoder,
        small_32_diffusion,
        small_32_onestep,
        small_64_encoder,
        small_64_diffusion,
        small_64_onestep,
        cifar10_encoder,
        cifar10_diffusion,
        cifar10_onestep,
        cpu_32_diffusion,
        cpu_32_onestep,
        cpu_64_diffusion,
        cpu_64_onestep,
        digits_onestep_paper,
        small_32_onestep_paper,
        small_64_onestep_paper,
        cifar10_onestep_paper,
        imagenet256_b_encoder,
        imagenet256_l_encoder,
        imagenet512_b_encoder,
        imagenet512_l_encoder,
        imagenet256_l_diffusion,
        imagenet256_xl_diffusion,
        imagenet256_xxl_diffusion,
        imagenet256_g_diffusion,
        imagenet512_l_diffusion,
        imagenet256_l_onestep,
    )
}
"""Every recipe function by the name of its recipe."""
