package overlaymounts

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/layercache/cache/internal/treediff"
)

// Layers reads the directories of an overlay from its options, the topmost first (spec OVL-2). Upper says that
// the first of them is the upper directory. Known says that there is no option that could give them another meaning.
func Layers(m mount.Mount) (l treediff.Layers, upper, known bool) {
	known = true
	var lowers []string
	upperDir, userXattr := "", false
	for _, o := range SplitOptions(m.Options) {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case key == "upperdir":
			upperDir = unescape(value)
		case key == "lowerdir":
			lowers = splitLower(value)
		case o == "userxattr":
			userXattr = true
		case key == "workdir", o == "index=off", key == "redirect_dir":
		default:
			known = false
		}
	}
	l.Marks = MarksOf(userXattr)
	if upperDir != "" {
		l.Dirs = append(l.Dirs, upperDir)
	}
	for _, dir := range lowers {
		if to, err := os.Readlink(dir); err == nil { // a snapshotter's short name
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(dir), to)
			}
			dir = to
		}
		l.Dirs = append(l.Dirs, dir)
	}
	if slices.Contains(l.Dirs, "") { // which begins a list of data-only directories
		known = false
	}
	return l, upperDir != "", known && len(l.Dirs) > 0
}

// MarksOf tells which marks an overlay has that is mounted with "userxattr", or without.
func MarksOf(userXattr bool) treediff.Marks {
	if userXattr {
		return treediff.User
	}
	return treediff.Trusted
}

// splitLower splits a list of directories at colons that are not escaped.
func splitLower(list string) []string {
	if !strings.Contains(list, `\`) {
		return strings.Split(list, ":")
	}
	var out []string
	start := 0
	for i := 0; i < len(list); i++ {
		switch list[i] {
		case '\\':
			i++
		case ':':
			out = append(out, unescape(list[start:i]))
			start = i + 1
		}
	}
	return append(out, unescape(list[start:]))
}

// unescape removes the backslashes that protect other characters.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
