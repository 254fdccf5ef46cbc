# For scripts that install what is missing: need COMMAND PACKAGE
need() {
	PATH=$PATH:/usr/sbin command -v "$1" >/dev/null && return
	if ! command -v apt-get >/dev/null; then
		echo "$1 is missing: install the package $2 with your system's package manager" >&2
		exit 1
	fi
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	[ -n "${updated-}" ] || $sudo apt-get update -qq
	updated=yes
	$sudo apt-get install -y -qq --no-install-recommends "$2"
}
