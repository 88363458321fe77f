package console

import (
	"bytes"
	"context"
	"flag"
	"io"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestProgram(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("it \x1b[2Jbroke")
	for name, tc := range map[string]struct {
		ctx        context.Context
		parse, run error
		out        io.Writer
		code       int
		says       string
	}{
		"well":          {code: 0},
		"help":          {parse: flag.ErrHelp, run: broken, code: 0},
		"command line":  {parse: broken, code: ExitUsage, says: "p: it \\x1b[2Jbroke\n"},
		"found wrong":   {run: errors.WithMessage(UsageError{broken}, "x"), code: ExitUsage, says: "p: x: it \\x1b[2Jbroke\n"},
		"error":         {run: broken, code: ExitError, says: "p: it \\x1b[2Jbroke\n"},
		"interrupt":     {ctx: interrupted, run: broken, code: ExitInterrupt, says: "p: interrupted: it \\x1b[2Jbroke\n"},
		"in time":       {ctx: interrupted, code: 0},
		"closed output": {out: full{}, code: ExitError, says: "p: no room\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.ctx == nil {
				tc.ctx = t.Context()
			}
			var stdout, stderr bytes.Buffer
			if tc.out == nil {
				tc.out = &stdout
			}
			p := Program[[]string]{
				Name:  "p",
				Parse: func(args []string, _ io.Writer) ([]string, error) { return args, tc.parse },
				Run: func(_ context.Context, args []string, out *Printer, _ View) error {
					out.Printf("%q\n", args)
					return tc.run
				},
			}
			require.Equal(t, tc.code, p.Command(tc.ctx, []string{"a", "b"}, tc.out, &stderr, nil))
			require.Equal(t, tc.says, stderr.String())
			if tc.parse == nil && tc.out == &stdout {
				require.Equal(t, "[\"a\" \"b\"]\n", stdout.String())
			} else {
				require.Empty(t, stdout.String())
			}
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestEvery(t *testing.T) {
	defer goleak.VerifyNone(t)
	calls, called := 0, make(chan struct{}, 2)
	stop := Every(time.Millisecond, func() {
		calls++
		if calls <= cap(called) {
			called <- struct{}{}
		}
	})
	<-called
	<-called
	stop()
	require.GreaterOrEqual(t, calls, 2) // which the race detector has something to say to if a call can still come
	stop()
	Every(0, func() { t.Error("0 is never") })()
}
