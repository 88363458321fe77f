package metadata

import (
	"bytes"
	"encoding/json"

	"github.com/pkg/errors"
)

// RawValue is a stored value as a scan sees it. It is valid only during the call that got it.
type RawValue struct {
	raw   []byte
	index []byte
}

// Raw returns the JSON of the value, nil if only an index is stored. It aliases the database
// and must neither be kept nor changed.
func (v RawValue) Raw() []byte { return v.raw }

// Index returns the index string of the value, empty for none.
func (v RawValue) Index() string { return string(v.index) }

// value returns a copy that may be kept.
func (v RawValue) value() *Value {
	return &Value{Value: bytes.Clone(v.raw), Index: string(v.index)}
}

// decode takes an envelope apart. The forms that BuildKit and this package write are taken
// apart in place, everything else that is valid JSON by encoding/json.
func decode(dt []byte) (RawValue, error) {
	if v, ok := decodeFast(dt); ok {
		return v, nil
	}
	var v Value
	if err := json.Unmarshal(dt, &v); err != nil {
		return RawValue{}, errors.Wrapf(ErrCorrupt, "value is no envelope: %v", err)
	}
	out := RawValue{raw: v.Value}
	if v.Index != "" {
		out.index = []byte(v.Index)
	}
	return out, nil
}

var (
	valueMember = []byte(`"value":`)
	indexMember = []byte(`"index":"`)
)

// decodeFast recognises {"value":X}, {"index":"s"} and {"value":X,"index":"s"} without white
// space and with an s that needs no unescaping.
func decodeFast(dt []byte) (v RawValue, ok bool) {
	if len(dt) < 2 || dt[0] != '{' || dt[len(dt)-1] != '}' {
		return v, false
	}
	rest := dt[1 : len(dt)-1]
	if bytes.HasPrefix(rest, valueMember) {
		rest = rest[len(valueMember):]
		n := skipJSON(rest, 0)
		if n <= 0 {
			return v, false
		}
		v.raw, rest = rest[:n:n], rest[n:]
		if len(rest) == 0 {
			return v, true
		}
		if rest[0] != ',' {
			return v, false
		}
		rest = rest[1:]
	}
	if !bytes.HasPrefix(rest, indexMember) {
		return v, false
	}
	rest = rest[len(indexMember):]
	for i, c := range rest {
		if c == '"' {
			v.index = rest[:i:i]
			return v, i == len(rest)-1
		}
		if c < 0x20 || c >= 0x7f || c == '\\' {
			return v, false
		}
	}
	return v, false
}

// maxFastDepth bounds the recursion of skipJSON; deeper values go to encoding/json.
const maxFastDepth = 16

// skipJSON returns the length of the JSON value at the start of dt. It returns 0 where the
// value is not valid or where deciding that is better left to encoding/json.
func skipJSON(dt []byte, depth int) int {
	if len(dt) == 0 || depth > maxFastDepth {
		return 0
	}
	switch c := dt[0]; {
	case c == '"':
		return skipString(dt)
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(dt)
	case c == '[':
		return skipList(dt, ']', depth)
	case c == '{':
		return skipList(dt, '}', depth)
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(dt) >= len(word) && string(dt[:len(word)]) == word {
			return len(word)
		}
	}
	return 0
}

// skipString accepts what encoding/json does except for escapes of code points.
func skipString(dt []byte) int {
	for i := 1; i < len(dt); i++ {
		switch c := dt[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return 0
		case c == '\\':
			i++
			if i == len(dt) || bytes.IndexByte([]byte(`"\/bfnrt`), dt[i]) < 0 {
				return 0
			}
		}
	}
	return 0
}

func skipNumber(dt []byte) int {
	i := 0
	if dt[0] == '-' {
		i++
	}
	digits := func() bool {
		start := i
		for i < len(dt) && dt[i] >= '0' && dt[i] <= '9' {
			i++
		}
		return i > start
	}
	start := i
	if !digits() || dt[start] == '0' && i > start+1 {
		return 0
	}
	if i < len(dt) && (dt[i] == '.' || dt[i] == 'e' || dt[i] == 'E') {
		return 0 // no key of the cache has a fraction
	}
	return i
}

// skipList skips an array, or with end '}' an object.
func skipList(dt []byte, end byte, depth int) int {
	i := 1
	if i < len(dt) && dt[i] == end {
		return i + 1
	}
	for i < len(dt) {
		if end == '}' {
			if dt[i] != '"' {
				return 0
			}
			n := skipString(dt[i:])
			if i += n; n == 0 || i >= len(dt) || dt[i] != ':' {
				return 0
			}
			i++
		}
		n := skipJSON(dt[i:], depth+1)
		if i += n; n == 0 || i >= len(dt) {
			return 0
		}
		switch dt[i] {
		case end:
			return i + 1
		case ',':
			i++
		default:
			return 0
		}
	}
	return 0
}
