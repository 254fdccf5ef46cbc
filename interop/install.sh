#!/bin/sh
# Installs what the interop tests drive: Node with npm, Python with pip, Chromium, nginx, Apache httpd, and a JDK with Maven,
# by which it builds the Java programs into java/*/target; what they need of Python's packages goes to python/, and of Go's programs to tools/. Each that is there already stays.
set -eu
cd "$(dirname "$0")"
. ./need.sh
need node nodejs
need npm npm
need python3 python3
need pip3 python3-pip
need chromium chromium
need javac default-jdk-headless
need mvn maven
need slowhttptest slowhttptest
need h2load nghttp2-client
need curl curl
need nginx nginx-light
need apache2 apache2-bin

if ! [ -f python/built ] || [ requirements-edge.txt -nt python/built ]; then
	rm -rf python
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target python -r requirements-edge.txt
	touch python/built
fi

if ! [ -x tools/pebble ] || ! [ -x tools/pebble-challtestsrv ]; then # Let's Encrypt's authority for tests
	GOBIN=$PWD/tools go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3 github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.3
fi

built=java/target/built
current() { # whether the Java programs are as their sources are, and the libraries that they were built with are there
	[ -f "$built" ] || return 1
	[ -z "$(find java -name target -prune -o -type f -newer "$built" -print)" ] || return 1
	for list in java/*/target/classpath; do
		tr : '\n' <"$list" | while read -r jar; do [ -f "$jar" ] || return 1; done || return 1
	done
}
if ! current; then
	echo "building the Java programs with Maven"
	(cd java && mvn --batch-mode --quiet --no-transfer-progress process-classes)
	touch "$built"
fi
