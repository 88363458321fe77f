package metadata

import (
	"encoding/json"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Value is what the database holds under a key of a record.
type Value struct {
	// Value is the JSON of the value.
	Value json.RawMessage `json:"value,omitempty"`
	// Index is the string under which Search finds the record through this value,
	// empty for none.
	Index string `json:"index,omitempty"`
}

// NewValue returns v as a Value without an index. What encoding/json cannot represent is
// an invalid argument.
func NewValue(v any) (*Value, error) {
	dt, err := marshal(v)
	if err != nil {
		return nil, err
	}
	return &Value{Value: dt}, nil
}

// Unmarshal stores the value in what target points to, by the rules of encoding/json.
func (v *Value) Unmarshal(target any) error {
	return errors.WithStack(json.Unmarshal(v.Value, target))
}

// marshal is json.Marshal with a way past reflection for the types that most keys have.
func marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case int:
		return strconv.AppendInt(nil, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case bool:
		return strconv.AppendBool(nil, v), nil
	}
	dt, err := json.Marshal(v)
	if err != nil {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "value cannot be stored: %v", err)
	}
	return dt, nil
}

// envelope returns the stored form of a value whose JSON comes from marshal. It is what
// encoding/json makes of a Value.
func envelope(dt []byte, index string) ([]byte, error) {
	out := make([]byte, 0, len(dt)+len(index)+len(`{"value":,"index":""}`))
	out = append(append(out, `{"value":`...), dt...)
	if index != "" {
		quoted, err := json.Marshal(index)
		if err != nil {
			return nil, errors.WithStack(err)
		}
		out = append(append(out, `,"index":`...), quoted...)
	}
	return append(out, '}'), nil
}

// rawEnvelope returns the stored form of a value that a caller assembled, nil for no value.
func rawEnvelope(v *Value) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	dt, err := json.Marshal(v)
	if err != nil {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "value cannot be stored: %v", err)
	}
	return dt, nil
}
