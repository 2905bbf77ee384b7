// The other side of the interoperability test: Go's own ttrpc, as server or as client, on a Unix socket. The methods
// and the checks are those of ../ttrpc_peer.cc.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "casemate.test.Peer"

func serve(path string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	method := func(run func(ctx context.Context, in []byte) ([]byte, error)) ttrpc.Method {
		return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var in wrapperspb.BytesValue
			if err := unmarshal(&in); err != nil {
				return nil, err
			}
			out, err := run(ctx, in.Value)
			if err != nil {
				return nil, err
			}
			return wrapperspb.Bytes(out), nil
		}
	}
	server.Register(service, map[string]ttrpc.Method{
		"Echo": method(func(_ context.Context, in []byte) ([]byte, error) { return in, nil }),
		"NotFound": method(func(_ context.Context, in []byte) ([]byte, error) {
			st, err := status.New(codes.NotFound, "no "+string(in)).WithDetails(wrapperspb.String("detail"))
			if err != nil {
				return nil, err
			}
			return nil, st.Err()
		}),
		"Wait": method(func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		"Metadata": method(func(ctx context.Context, _ []byte) ([]byte, error) {
			md, _ := ttrpc.GetMetadata(ctx)
			var all []string
			for key, values := range md {
				for _, value := range values {
					all = append(all, key+"="+value)
				}
			}
			sort.Strings(all)
			return []byte(strings.Join(all, ";")), nil
		}),
		"Huge": method(func(_ context.Context, _ []byte) ([]byte, error) { return make([]byte, 5<<20), nil }),
	})
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), listener)
}

func client(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	peer := ttrpc.NewClient(conn)
	defer peer.Close()
	call := func(ctx context.Context, method string, in []byte) ([]byte, error) {
		var out wrapperspb.BytesValue
		err := peer.Call(ctx, service, method, wrapperspb.Bytes(in), &out)
		return out.Value, err
	}
	want := func(method string, in []byte, expected codes.Code) error {
		if _, err := call(context.Background(), method, in); status.Code(err) != expected {
			return fmt.Errorf("%s: %v, expected %v", method, err, expected)
		}
		return nil
	}
	ctx := context.Background()
	for _, size := range []int{0, 1, 4096, 100000, 4<<20 - 200} {
		in := bytes.Repeat([]byte{'x'}, size)
		out, err := call(ctx, "Echo", in)
		if err != nil || !bytes.Equal(in, out) {
			return fmt.Errorf("Echo of %d bytes: %d bytes, %v", size, len(out), err)
		}
	}
	_, err = call(ctx, "NotFound", []byte("container x"))
	st := status.Convert(err)
	if st.Code() != codes.NotFound || st.Message() != "no container x" || len(st.Details()) != 1 {
		return fmt.Errorf("NotFound: %v, details %v", err, st.Details())
	}
	if detail, ok := st.Details()[0].(*wrapperspb.StringValue); !ok || detail.Value != "detail" {
		return fmt.Errorf("NotFound: details %v", st.Details())
	}
	if err := want("NoSuchMethod", nil, codes.Unimplemented); err != nil {
		return err
	}
	if err := want("Huge", nil, codes.ResourceExhausted); err != nil {
		return err
	}
	if err := want("Echo", make([]byte, 5<<20), codes.ResourceExhausted); err != nil {
		return err
	}
	withMetadata := ttrpc.WithMetadata(ctx, ttrpc.MD{"a": {"1", "2"}, "b": {"3"}})
	if out, err := call(withMetadata, "Metadata", nil); err != nil || string(out) != "a=1;a=2;b=3" {
		return fmt.Errorf("Metadata: %q, %v", out, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := call(short, "Wait", nil); !errors.Is(err, context.DeadlineExceeded) &&
		status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("Wait with a time-out: %v", err)
	}
	var group sync.WaitGroup
	failures := make(chan error, 64)
	for i := 0; i < 64; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			for n := 0; n < 20; n++ {
				in := fmt.Sprintf("%d/%d", i, n)
				if out, err := call(ctx, "Echo", []byte(in)); err != nil || string(out) != in {
					failures <- fmt.Errorf("Echo of %q: %q, %v", in, out, err)
					return
				}
			}
		}(i)
	}
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func main() {
	run := map[string]func(string) error{"server": serve, "client": client}
	if len(os.Args) != 3 || run[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer server|client SOCKET")
		os.Exit(2)
	}
	if err := run[os.Args[1]](os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "go", os.Args[1]+":", err)
		os.Exit(1)
	}
}
