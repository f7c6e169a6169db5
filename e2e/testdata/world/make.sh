# Makes the world that most scripts begin in, in the working directory. $1 is the
# directory of this file.
#
#   src/               source of the app demo, at the tags v1.0 and v2.0
#   builder.toml keys/ bucket/ channels.git/   a builder; both versions are released
#   bare.toml          the same without contents, and without leave to advance a tier
#   a.toml node-a/     a node of tier a, which is at 1.0; it has run nothing yet
#   b.toml node-b/     the same of tier b
#   restart            the service of both: writes each start down in the file starts
#   var/               somebody else's: nothing here may ever change
#
# Tier host is at 2.0. Node roots are made by the first puller.
set -eu

version() {
	echo "$1" > src/VERSION
	echo "body { margin: $1em }" > src/static/style.css
	git -C src add -A
	git -C src commit -q -m "Version $1"
	git -C src tag "v$1"
	builder -q release --rev "v$1"
}

cp -R "$1/src" "$1/restart" "$1/a.toml" "$1/b.toml" .
chmod 755 restart src/build.sh
mkdir -p var/lib
echo 42 > var/lib/answer
git init -q -b main src
echo out/ > src/.gitignore
builder init --app demo
cp "$1/builder.toml" "$1/bare.toml" .
version 1.0
builder promote a
builder promote b
version 2.0
rm -r state
