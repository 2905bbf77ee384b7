// An HTTP server and its clients in one program: 200 requests by 20 clients, each with a body that must come back.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1]+":0")
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})}
	go server.Serve(listener)
	results := make(chan error)
	for i := 0; i < 20; i++ {
		go func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
			for n := 0; n < 10; n++ {
				body := make([]byte, 5000*n+1)
				rand.Read(body)
				answer, err := client.Post("http://"+listener.Addr().String(), "application/octet-stream", bytes.NewReader(body))
				if err != nil {
					results <- err
					return
				}
				got, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				if err != nil || !bytes.Equal(got, body) {
					results <- fmt.Errorf("other bytes: %d of %d: %v", len(got), len(body), err)
					return
				}
			}
			results <- nil
		}()
	}
	for i := 0; i < 20; i++ {
		if err := <-results; err != nil {
			panic(err)
		}
	}
	if err := server.Shutdown(context.Background()); err != nil {
		panic(err)
	}
}
