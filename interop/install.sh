#!/bin/sh
# Installs what the interop tests drive: Node with npm, Python with pip, and Chromium. Each that is there already stays.
set -eu
need() { # need COMMAND PACKAGE
	command -v "$1" >/dev/null && return
	if ! command -v apt-get >/dev/null; then
		echo "$1 is missing: install the package $2 with your system's package manager" >&2
		exit 1
	fi
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -qq
	$sudo apt-get install -y -qq --no-install-recommends "$2"
}
need node nodejs
need npm npm
need python3 python3
need pip3 python3-pip
need chromium chromium
