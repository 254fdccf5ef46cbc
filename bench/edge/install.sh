#!/bin/sh
# Installs what make bench-edge compares with and loads by: nginx, HAProxy, wrk and h2load, and a JDK with Maven, by which
# it builds Spring Cloud Gateway into gateway/target. Each that is there already stays. Caddy is built by the comparison.
set -eu
cd "$(dirname "$0")"
need() { # need COMMAND PACKAGE
	PATH=$PATH:/usr/sbin command -v "$1" >/dev/null && return
	if ! command -v apt-get >/dev/null; then
		echo "$1 is missing: install the package $2 with your system's package manager" >&2
		exit 1
	fi
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -qq
	$sudo apt-get install -y -qq --no-install-recommends "$2"
}
need nginx nginx
need haproxy haproxy
need wrk wrk
need h2load nghttp2-client
need javac default-jdk-headless
need mvn maven

built=gateway/target/built
if ! [ -f "$built" ] || [ -n "$(find gateway -name target -prune -o -type f -newer "$built" -print)" ]; then
	echo "building Spring Cloud Gateway with Maven"
	(cd gateway && mvn --batch-mode --quiet --no-transfer-progress package)
	touch "$built"
fi
