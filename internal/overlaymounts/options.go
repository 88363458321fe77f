// Package overlaymounts reads the options of overlay mounts.
package overlaymounts

import "strings"

// SplitOptions returns a fresh list with one mount option per element. Elements may hold several, since all
// of them are joined with commas in the end; a comma that is escaped or between quotes belongs to its option.
func SplitOptions(options []string) []string {
	out := make([]string, 0, len(options)+1) // one more, for what the caller adds
	for _, o := range options {
		for {
			head, tail, more := cutOption(o)
			if head != "" || !more {
				out = append(out, head)
			}
			if !more {
				break
			}
			o = tail
		}
	}
	return out
}

// cutOption cuts s at its first comma that separates options.
func cutOption(s string) (head, tail string, more bool) {
	if !strings.Contains(s, ",") {
		return s, "", false
	}
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case ',':
			if !quoted {
				return s[:i], s[i+1:], true
			}
		}
	}
	return s, "", false
}
