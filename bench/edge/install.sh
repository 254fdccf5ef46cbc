#!/bin/sh
# Installs what make bench-edge compares with and loads by: nginx, HAProxy, wrk and h2load, and a JDK with Maven, by which
# it builds Spring Cloud Gateway into gateway/target. Each that is there already stays. Caddy is built by the comparison.
set -eu
cd "$(dirname "$0")"
. ../../interop/need.sh
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
