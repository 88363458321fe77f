# Sourced by .ci/run and .ci/full: what is checked. One function is one step; each fails when it finds nothing to check.

module=github.com/layercache/cache
test_timeout=8m
platforms='linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64'

# What the machine needs, and our own checkers, built once.
step_prepare() {
  [ "$(id -u)" -eq 0 ] || die 'run as root: mounts need it, and the unprivileged part changes to user nobody by itself'
  command -v go >/dev/null || die 'Go is missing'
  id nobody >/dev/null || die 'there is no user nobody'
  need gcc gcc libc6-dev # the race detector links with it
  need setpriv util-linux
  need tar tar
  go version
  local tool
  for tool in testgate importcheck ruletable dropincheck; do
    go build -o "$bin/$tool" "./internal/tools/$tool"
  done
  go build -o "$bin/test2json" cmd/test2json
}

# go.mod and go.sum of every module are what `go mod tidy` would write.
step_tidy() {
  local dir
  for dir in $(modules); do
    printf '%s\n' "$dir"
    go -C "$dir" mod tidy -diff || die "go.mod or go.sum of $dir is not tidy: run \`go -C $dir mod tidy\`"
  done
}

# Who may import whom, how much the library drags in (bench.md row 19), what go.mod never requires.
step_imports() { "$bin/importcheck"; }

# docs/rules.md is current, and every required rule has a test.
step_rules() { "$bin/ruletable" -check; }

step_vet() {
  local dir
  for dir in $(modules); do
    [ "$dir" != ./tools ] || continue # has no package of its own
    go -C "$dir" vet ./...
  done
}

# golangci-lint, pinned in tools/go.mod, with its formatters (gofumpt, goimports), in every module.
step_lint() {
  local dir config=$PWD/.golangci.yml
  go -C tools build -o "$bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
  "$bin/golangci-lint" config verify --config "$config" || die '.golangci.yml is not valid'
  for dir in $(modules); do
    [ "$dir" != ./tools ] || continue
    (cd "$dir" && "$bin/golangci-lint" run --config "$config" ./...)
  done
}

# The README's test command; -json only shows how each test ended.
step_test() {
  go test -timeout "$test_timeout" -json ./... | "$bin/testgate" -must .ci/must-run.txt
}

# The same under the race detector, with the assertions of internal/invariant compiled in.
step_race() {
  go test -race -tags invariants -count=1 -timeout "$test_timeout" -json ./... | "$bin/testgate" -must .ci/must-run.txt
}

# as_nobody DIR COMMAND...: runs a command in DIR without any privilege, with a home, caches and temporary directory of its own.
as_nobody() {
  local dir=$1 home=$nobody_home
  shift
  (cd "$dir" && setpriv --reuid="$(id -u nobody)" --regid="$(id -g nobody)" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    env -i PATH="$PATH" CI=true LC_ALL=C HOME="$home" TMPDIR="$home/tmp" GOCACHE="$home/gocache" GOMODCACHE="$nobody_modcache" \
    GOPROXY=off GOFLAGS='-mod=readonly -buildvcs=false' GOTOOLCHAIN=local "$@" </dev/null)
}

# Tests and quickstart as user nobody (design 6b), on a copy of the tree that nobody can read but not write.
# Test binaries come from root's build cache. quickstart is compiled by nobody, as the README says, from a module cache that was
# filled for it: root's own may be out of its sight.
step_nobody() {
  local tree=$work/nobody/tree pkg dir test
  nobody_home=$work/nobody/home
  nobody_modcache=$work/nobody/modcache
  chmod 755 "$work"
  mkdir -p "$tree" "$nobody_home/tmp" "$work/nobody/tests"
  tar -c --exclude=./.git . | tar -x -C "$tree"
  chmod -R a+rX,go-w "$work/nobody"
  chown -R nobody "$nobody_home"
  as_nobody "$tree" test -r go.mod || die "user nobody cannot read $tree: set TMPDIR to a directory all can enter"
  as_nobody "$tree" test ! -w go.mod || die 'user nobody can write the tree: the step would prove nothing'

  # shellcheck disable=SC2016 # the template is for go list
  go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... >"$work/nobody/packages"
  [ -s "$work/nobody/packages" ] || die 'no package has tests'
  while read -r pkg dir; do
    go test -c -o "$work/nobody/tests/${pkg//\//_}.test" "$pkg"
  done <"$work/nobody/packages"
  chmod -R a+rX "$work/nobody/tests"
  while read -r pkg dir; do
    test=$work/nobody/tests/${pkg//\//_}.test
    # The events tell how it ended, also for a binary that dies; the exit code would say nothing more.
    as_nobody "$tree/${dir#"$PWD"}" "$bin/test2json" -t -p "$pkg" "$test" -test.v=test2json -test.timeout="$test_timeout" || true
  done <"$work/nobody/packages" | "$bin/testgate" -must .ci/must-run-nobody.txt

  fill_modcache "$nobody_modcache"
  quickstart as_nobody "$tree"
}

# fill_modcache DIR: the modules of the root go.mod, taken from root's module cache where it has them.
fill_modcache() {
  local have
  have=$(go env GOMODCACHE)/cache/download
  GOMODCACHE=$1 GOPROXY="file://$have,$(go env GOPROXY)" GOFLAGS=-modcacherw go mod download
  chmod -R a+rX "$1"
}

# as_root DIR COMMAND...: the counterpart of as_nobody; what quickstart keeps for its user goes to the work directory.
as_root() {
  local dir=$1
  shift
  (cd "$dir" && GOCACHE=$(go env GOCACHE) XDG_CACHE_HOME=$work/user-cache "$@")
}

# quickstart RUNNER DIR: the README's second command, as it stands there and twice on one directory; the first run there must
# miss every step and the second, another process, must hit every one.
quickstart() {
  local runner=$1 tree=$2 data
  data=$("$runner" "$tree" mktemp -d)
  "$runner" "$tree" go run ./examples/quickstart >"$work/quickstart.0"
  "$runner" "$tree" go run ./examples/quickstart -dir "$data/cache" >"$work/quickstart.1"
  "$runner" "$tree" go run ./examples/quickstart -dir "$data/cache" >"$work/quickstart.2"
  cat "$work/quickstart.2"
  local n
  n=$(grep -cE '^step .*: (hit|miss)$' "$work/quickstart.1" || true)
  [ "$n" -ge 3 ] || die "quickstart reports $n steps, not the three of its image"
  [ "$(grep -cE '^step .*: miss$' "$work/quickstart.1" || true)" -eq "$n" ] || die 'the first run of quickstart in an empty directory claims a hit'
  [ "$(grep -cE '^step .*: hit$' "$work/quickstart.2" || true)" -eq "$n" ] || die 'the second run of quickstart did not hit every step'
  rm -rf "$data"
}

# Every example builds, and quickstart does what the README promises, as root.
step_examples() {
  local n
  n=$(go list ./examples/... | wc -l)
  [ "$n" -gt 0 ] || die 'there are no examples'
  mkdir -p "$work/examples"
  go build -o "$work/examples/" ./examples/...
  quickstart as_root "$PWD"
}

# Other systems: everything compiles, tests included (vet type-checks them).
step_cross() {
  local p
  for p in $platforms; do
    printf '%s\n' "$p"
    GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go build ./...
    GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go vet ./...
  done
}

# The modules beside the library: BuildKit side by side, and BuildKit's own data.
step_bench() {
  [ -f bench/go.mod ] || die 'bench/ is missing'
  (cd bench && go test -timeout "$test_timeout" -json ./...) | "$bin/testgate"
  (cd bench && go run . -quick)
}

step_compat() {
  [ -f compat/go.mod ] || die 'compat/ is missing'
  (cd compat && go test -timeout "$test_timeout" -json ./...) | "$bin/testgate" -module "$module/compat" -must .ci/must-run-compat.txt
}

# Layers pulled from a real registry, which runs in the test's process, well behaved and not.
step_registry() {
  [ -f registry/go.mod ] || die 'registry/ is missing'
  (cd registry && go test -timeout "$test_timeout" -json ./...) | "$bin/testgate" -module "$module/registry" -must .ci/must-run-registry.txt
}

# What a BuildKit fork still misses is what docs/dropin-missing.txt says, no more and no less.
step_dropin() {
  local check=../shared/dropin/check.sh
  if [ ! -e "$check" ]; then
    printf '%s\n' '!!!' "!!! SKIPPED: $check is not here, so whether BuildKit compiles on the library was NOT checked." '!!!'
    return
  fi
  "$bin/dropincheck" -check "$check" -known docs/dropin-missing.txt
}

# The cheapest first.
all_steps='prepare tidy imports rules vet test nobody examples race lint cross bench compat registry dropin'

# run_steps [NAME...]: the named steps, or all; prepare always.
run_steps() {
  local name
  local -a wanted=(prepare)
  if [ $# -eq 0 ]; then
    read -ra wanted <<<"$all_steps"
  fi
  for name in "$@"; do
    declare -F "step_$name" >/dev/null || die "there is no step $name; there are: $all_steps"
    [ "$name" = prepare ] || wanted+=("$name")
  done
  for name in "${wanted[@]}"; do run_step "$name" "step_$name"; done
}
