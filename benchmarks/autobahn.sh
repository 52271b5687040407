#!/usr/bin/env bash
# make autobahn: the Autobahn|Testsuite, which knows RFC 6455 best, against an echo on both paths: the gateway's own
# server, and a gateway under plain uvicorn. All but 9.* (speed), 12.* and 13.* (compression): 247 cases.
#
# Exits 1 if a case has failed, but for 7.1.5: a close amid the fragments of a message, which the websockets library
# answers with 1002 on purpose, as the message can never be whole.
#
# The suite runs on CPython 2.7 only: pyenv's is taken (`pyenv install 2.7.18`), or the one that PYTHON27 names.
# It is installed from PyPI into .venv-autobahn; reports are in .venv-autobahn/reports.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
HOME27=$PWD/.venv-autobahn
WSTEST=$HOME27/venv/bin/wstest
REPORTS=$HOME27/reports

die() { echo "make autobahn: $*" >&2; exit 2; }

python27() {
  if [ -n "${PYTHON27:-}" ]; then "$PYTHON27" "$@"; else PYENV_VERSION=2.7.18 python2.7 "$@"; fi
}

install_suite() {
  [ -x "$WSTEST" ] && return
  python27 -c 'import sys; assert sys.version_info[:2] == (2, 7)' 2>/dev/null || die "the Autobahn|Testsuite needs
CPython 2.7, and there is none: install one with 'pyenv install 2.7.18', or set PYTHON27 to its path"
  mkdir -p "$HOME27"
  local log=$HOME27/install.log pip=(-m pip install --quiet --disable-pip-version-check)
  echo "installing autobahntestsuite into $HOME27"
  {
    # 20.15.1 is the last virtualenv that makes environments for 2.7
    python27 "${pip[@]}" --no-warn-script-location --prefix "$HOME27/tool" 'virtualenv==20.15.1' &&
    PYTHONPATH=$HOME27/tool/lib/python2.7/site-packages python27 -m virtualenv --no-download --quiet "$HOME27/venv" &&
    "$HOME27/venv/bin/python" "${pip[@]}" 'setuptools==44.0.0' 'wheel==0.36.2' 'incremental==16.10.1' &&
    "$HOME27/venv/bin/python" "${pip[@]}" 'autobahntestsuite==25.10.1'
  } >"$log" 2>&1 || { tail -5 "$log" >&2; die "it cannot be installed, see $log"; }
}

server=
stop_server() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true; server=; }
trap stop_server EXIT

# run NAME COMMAND...: start COMMAND, which prints its URL first, and let the suite talk to it
run() {
  local name=$1 out=$REPORTS/$1 first url
  shift
  rm -rf "$out"
  mkdir -p "$out"
  mkfifo "$out/said"
  (cd "$out" && exec "$@" >said 2>server.log) &
  server=$!
  exec 3<"$out/said"
  read -r -t 20 first <&3 || die "$name does not start, see $out/server.log"
  url=ws${first##*http}/ws
  cat >"$out/fuzzingclient.json" <<JSON
{"options": {"failByDrop": false}, "outdir": "$out", "servers": [{"agent": "$name", "url": "$url"}],
 "cases": ["*"], "exclude-cases": ["9.*", "12.*", "13.*"], "exclude-agent-cases": {}}
JSON
  (cd "$out" && timeout 600 "$WSTEST" -m fuzzingclient -s fuzzingclient.json >wstest.log 2>&1) ||
    die "the suite stopped, see $out/wstest.log"
  stop_server
  exec 3<&-
}

install_suite
python=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
here=$PWD/benchmarks/servers
run own "$python" -m wsgateway serve --port 0 --no-admin-enabled --log-file '' --listener "$here/echo_listener.py:Listener"
run plain "$python" "$here/plain_echo.py"
exec "$python" benchmarks/autobahn_counts.py "$REPORTS"/*/index.json
