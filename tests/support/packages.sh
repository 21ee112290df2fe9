#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Debian packages for pvdirty, with package lists of its own under build/apt:
# the machine's own sources say where the archive is, nothing of the machine's
# apt is changed.
#
#   packages.sh install          install what is missing (root)
#   packages.sh apt-get ARG...   apt-get with these lists
#   packages.sh apt-cache ARG... apt-cache with these lists
#   packages.sh sources FILE...  show what is derived from sources.list files
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
apt=$top/build/apt
log=$top/build/log/packages.log
suite=bookworm

# What building and testing need. Kernels and QEMU's source are not installed
# but unpacked under build/ (provision.py).
packages=(
	bc bison busybox-static ca-certificates catch2 ccache clang-14
	clang-format-14 clang-tidy-14 cmake coccinelle
	cpio dkms dpkg-dev flex g++ gcc gcc-12 kmod libbenchmark-dev libc6-dev libclang-rt-14-dev
	libcli11-dev libelf-dev libexpected-dev libfdt-dev libfmt-dev libglib2.0-dev
	libpixman-1-dev librapidcheck-dev llvm-14 make meson ninja-build
	nlohmann-json3-dev pahole pkg-config pyflakes3 python3 python3-venv qemu-system-x86
	sparse spin xz-utils zlib1g-dev zstd
)

die() {
	echo "${0##*/}: $1" >&2
	exit 1
}

check_debian() {
	local ID='' VERSION_ID=''
	[ -r /etc/os-release ] && . /etc/os-release
	[ "$ID" = debian ] && [ "$VERSION_ID" = 12 ] ||
		die "this is ${ID:-an unknown system} ${VERSION_ID}: pvdirty needs Debian 12 (bookworm)"
	[ "$(dpkg --print-architecture)" = amd64 ] ||
		die "pvdirty needs an amd64 machine, this is $(dpkg --print-architecture)"
}

# The entries of Debian's archive in these files, with updates, security,
# backports and the source packages, as one deb822 file on stdout. Options of
# the entries (Signed-By, Trusted, ...) are kept.
derive_sources() {
	awk -v suite="$suite" '
	function word(list, w) { return index(" " list " ", " " w " ") > 0 }
	function entry(uris, suites, comps, opts) {
		n++
		U[n] = uris; S[n] = suites; C[n] = comps; O[n] = opts
	}
	function flush_stanza() {
		if (word(F["types"], "deb") && tolower(F["enabled"]) != "no")
			entry(F["uris"], F["suites"], F["components"], extra)
		delete F
		extra = key = ""
	}
	FNR == 1 { flush_stanza(); deb822 = FILENAME ~ /\.sources$/ }
	/^[ \t]*#/ { next }
	deb822 && /^[ \t]*$/ { flush_stanza(); next }
	deb822 && /^[ \t]/ {
		if (key in F) F[key] = F[key] " " $0
		else extra = extra $0 "\n"
		next
	}
	deb822 {
		key = tolower($0); sub(/:.*/, "", key)
		value = $0; sub(/^[^:]*:[ \t]*/, "", value)
		if (key ~ /^(types|uris|suites|components|enabled)$/) F[key] = value
		else extra = extra $0 "\n"
		next
	}
	$1 == "deb" {
		line = $0; opts = ""
		sub(/^[ \t]*deb[ \t]+/, "", line); sub(/#.*/, "", line)
		if (line ~ /^\[/) {
			o = line; sub(/^\[[ \t]*/, "", o); sub(/[ \t]*\].*/, "", o)
			sub(/^\[[^]]*\][ \t]*/, "", line)
			m = split(o, part, /[ \t]+/)
			for (i = 1; i <= m; i++) {
				k = v = part[i]
				sub(/=.*/, "", k); sub(/^[^=]*=/, "", v); gsub(/,/, " ", v)
				if (k == "arch") k = "Architectures"
				if (k == "lang") k = "Languages"
				if (k == "target") k = "Targets"
				opts = opts k ": " v "\n"
			}
		}
		m = split(line, part, /[ \t]+/)
		comps = ""
		for (i = 3; i <= m; i++) comps = comps " " part[i]
		entry(part[1], part[2], comps, opts)
	}
	# The best entry that offers a suite: other vendors use these names too.
	function best(want,   i, score, top, found) {
		for (i = 1; i <= n; i++) {
			if (!word(S[i], want) || !word(C[i], "main") || U[i] ~ /^cdrom:/)
				continue
			score = 1
			if (U[i] ~ /debian/) score += 2
			if (O[i] ~ /debian-archive/ || tolower(O[i]) !~ /signed-by/) score++
			if (score > top) { top = score; found = i }
		}
		return found
	}
	function show(i, want) {
		printf "Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\n%s\n", U[i], want, O[i]
	}
	END {
		flush_stanza()
		if (!(main = best(suite)))
			exit 1
		show(main, suite)
		i = best(suite "-updates"); show(i ? i : main, suite "-updates")
		i = best(suite "-security"); if (i) show(i, suite "-security")
		i = best(suite "-backports"); show(i ? i : main, suite "-backports")
	}' "$@"
}

# Options on the command line: a file named by APT_CONFIG is read before the
# machine's apt.conf.d, which would win.
apt_options=(
	-o "Dir::Etc::sourcelist=/dev/null"
	-o "Dir::Etc::sourceparts=$apt/sources.list.d"
	-o "Dir::State::lists=$apt/lists"
	-o "Dir::Cache=$apt/cache"
	-o "Dir::Log=$apt/log"
	-o "APT::Sandbox::User=root"
	-o "Acquire::Retries=3"
)

setup() {
	check_debian
	mkdir -p "$apt"/{sources.list.d,lists/partial,cache/archives/partial,log} "$top/build/log"
	local files=()
	local f
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
		/etc/apt/sources.list.d/*.sources; do
		[ -r "$f" ] && files+=("$f")
	done
	if ! derive_sources "${files[@]-/dev/null}" >"$apt/new.sources"; then
		die "no entry for Debian's $suite archive in /etc/apt/sources.list or sources.list.d"
	fi
	# New sources (or none yet): the lists must be read again.
	if ! cmp -s "$apt/new.sources" "$apt/sources.list.d/pvdirty.sources"; then
		mv "$apt/new.sources" "$apt/sources.list.d/pvdirty.sources"
		rm -f "$apt/updated"
	else
		rm "$apt/new.sources"
	fi
	# Lists older than a day may name packages that the archive has dropped.
	if [ -z "$(find "$apt/updated" -mmin -1440 2>/dev/null)" ]; then
		echo "reading package lists" >&2
		apt-get "${apt_options[@]}" -q update >"$log" 2>&1 || fail "apt-get update failed"
		touch "$apt/updated"
	fi
}

fail() {
	tail -n 15 "$log" >&2
	die "$1; the whole log is $log"
}

missing() {
	local p
	for p in "${packages[@]}"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] ||
			echo "$p"
	done
}

install_missing() {
	local need
	mapfile -t need < <(missing)
	[ "${#need[@]}" -gt 0 ] || return 0
	check_debian
	if [ "$(id -u)" != 0 ]; then
		echo "Debian packages are missing (${need[*]}); install them with:" >&2
		echo "  sudo $top/tests/support/packages.sh install" >&2
		exit 1
	fi
	setup
	echo "installing ${#need[@]} packages: ${need[*]}" >&2
	DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" -qy \
		--no-install-recommends install "${need[@]}" >"$log" 2>&1 </dev/null ||
		fail "apt-get install failed"
	# Under sudo the tree stays the user's.
	chown -R --reference="$top" "$top/build"
}

case ${1-} in
install)
	[ $# = 1 ] || die "install takes no arguments"
	install_missing
	;;
sources)
	[ $# -gt 1 ] || die "sources needs files"
	derive_sources "${@:2}" || die "no entry for Debian's $suite archive in ${*:2}"
	;;
apt-get | apt-cache)
	setup
	exec "$1" "${apt_options[@]}" "${@:2}"
	;;
*)
	sed -n '4,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac
