package metadata

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// envelopes are forms of a stored value, those first that need no reflection.
var envelopes = []string{
	`{"value":1}`, `{"value":-12}`, `{"value":0}`, `{"value":"a b"}`, `{"value":"\"\\\/\b\f\n\r\t"}`, `{"value":true}`,
	`{"value":false}`, `{"value":null}`, `{"value":[]}`, `{"value":{}}`, `{"value":["a","b",1,null]}`,
	`{"value":{"a":{"b":[1,2,{"c":"}]"}]}}}`, `{"index":"x"}`, `{"value":1,"index":"x::y"}`, `{"value":"x","index":""}`,
	`{"value":"\"},\"index\":\"no","index":"yes"}`, "{\"value\":\"\x7f\xc3\xa9\xff\"}",

	`{}`, `null`, ` {"value":1}`, `{"value": 1}`, `{"value":1 }`, `{"value":1.5}`, `{"value":1e3}`, `{"value":"\u0041"}`,
	`{"index":"\u0041"}`, `{"index":"é"}`, "{\"index\":\"\xff\"}", `{"index":"x","value":1}`, `{"value":1,"value":2}`,
	`{"value":1,"other":2}`, `{"Value":1}`, `{"VALUE":1,"INDEX":"x"}`, `{"index":null}`, `{"index":"a\"b"}`,
	`{"value":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,

	``, `{`, `}`, `{"value":}`, `{"value":01}`, `{"value":-}`, `{"value":"}`, `{"value":"\x"}`, `{"value":[1,]}`, `{"value":{"a"}}`,
	`{"value":{"a":1,}}`, `{"value":tru}`, `{"value":1,}`, `{"value":1,"index":1}`, `{"value":1,"index":"x"`, `{"index":"x"}}`,
	"{\"value\":\"\n\"}", "{\"index\":\"\x00\"}", `{"value":1}{"value":2}`, `[]`, `"x"`, `{"value":{"a":1}`, `{"value":1"index":"x"}`,
}

// compareDecoding holds decode against encoding/json.
func compareDecoding(t *testing.T, dt []byte) {
	var want Value
	wantErr := json.Unmarshal(dt, &want)
	got, err := decode(dt)
	if wantErr != nil {
		require.ErrorIs(t, err, ErrCorrupt, "%q", dt)
		return
	}
	require.NoError(t, err, "%q", dt)
	require.Equal(t, string(want.Value), string(got.Raw()), "%q", dt)
	require.Equal(t, want.Index, got.Index(), "%q", dt)
}

// TestDecode compares forms that are and are not taken apart in place.
// spec META-4
func TestDecode(t *testing.T) {
	for i, e := range envelopes {
		compareDecoding(t, []byte(e))
		_, fast := decodeFast([]byte(e))
		require.Equal(t, i < 17, fast, e)
	}
}

// FuzzDecode compares any bytes.
// spec META-4, fault 43
func FuzzDecode(f *testing.F) {
	for _, e := range envelopes {
		f.Add([]byte(e))
	}
	f.Fuzz(compareDecoding)
}

// TestEncode compares what is written without and with reflection.
// spec META-4
func TestEncode(t *testing.T) {
	for _, v := range []any{1, int64(-5), true, "a<b>\u2028&é\"", []string{"z", "a"}, nil, map[string]any{"x": 1.5}, uint8(3)} {
		for _, index := range []string{"", "i", "a::b<>&\"\\é\u2029"} {
			value, err := NewValue(v)
			require.NoError(t, err)
			value.Index = index
			want, err := json.Marshal(value)
			require.NoError(t, err)
			got, err := envelope(value.Value, index)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
			compareDecoding(t, got)
		}
	}
}
