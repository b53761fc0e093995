// Receives with github.com/coder/websocket, and reconnects by hand.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

var socketURL, token = os.Getenv("SOCKET_URL"), os.Getenv("TOKEN")

// Frame is what the program reads of a frame. Title is nil if the frame is no notification.
type Frame struct {
	Seq   int64           `json:"seq"`
	Title *string         `json:"title"`
	Data  json.RawMessage `json:"data"`
}

// apply prints a notification.
func apply(frame Frame) {
	if err := json.NewEncoder(os.Stdout).Encode(frame); err != nil {
		log.Fatal(err)
	}
}

// docs: begin
func receive(ctx context.Context) error {
	options := &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}}
	socket, _, err := websocket.Dial(ctx, socketURL, options)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	socket.SetReadLimit(1 << 20) // a notification may be larger than the default, 32 KiB
	for {
		var frame Frame
		if err := wsjson.Read(ctx, socket, &frame); err != nil {
			return err
		}
		if frame.Title == nil {
			continue // no notification
		}
		apply(frame)
		if err := wsjson.Write(ctx, socket, map[string]any{"type": "ack", "seq": frame.Seq}); err != nil {
			return err
		}
	}
}

// docs: end

// receiveForever connects again until the hub refuses the client.
func receiveForever(ctx context.Context) error {
	for {
		err := receive(ctx)
		code := websocket.CloseStatus(err)
		if code == 4004 || code >= 4401 && code <= 4599 || ctx.Err() != nil {
			return err // needs the application
		}
		time.Sleep(time.Second)
	}
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the test closes stdin when it ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := receiveForever(ctx); !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
