#!/bin/sh
set -e
mkdir -p out
printf '#!/bin/sh\necho demo %s for %s\n' "$SANDO_VERSION" "$SANDO_OS/$SANDO_ARCH" > out/demo
