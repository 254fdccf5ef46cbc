#!/bin/sh
# Installs what the interop tests drive: Node with npm, Python with pip, Chromium, nginx, Apache httpd, and a JDK with Maven,
# by which it builds the Java programs into java/*/target; what they need of Python's packages goes to python/, of Node's to
# node_modules/, and of Go's programs to tools/. What is there already, and is what is asked for, stays.
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

again() { # a registry may not answer for a moment
	"$@" || { sleep 5 && "$@"; } || { sleep 30 && "$@"; }
}

if ! [ -f python/built ] || [ requirements.txt -nt python/built ]; then
	rm -rf python
	again python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target python -r requirements.txt
	touch python/built
fi

if ! [ -f node_modules/built ] || [ package-lock.json -nt node_modules/built ]; then
	again npm ci --silent --no-audit --no-fund --ignore-scripts
	touch node_modules/built
fi

pebble=v2.10.3 # Let's Encrypt's authority for tests
if [ "$(cat tools/pebble.version 2>/dev/null)" != "$pebble" ]; then
	GOBIN=$PWD/tools again go install "github.com/letsencrypt/pebble/v2/cmd/pebble@$pebble" "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@$pebble"
	echo "$pebble" >tools/pebble.version
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
	(cd java && again mvn --batch-mode --quiet --no-transfer-progress process-classes)
	touch "$built"
fi
