// SPDX-License-Identifier: Apache-2.0

// A call by Pion: what ../call.mjs does, for an implementation in Go.
//
//	pion WHIP-URL PACKETS-FILE
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pion/webrtc/v3"
	"github.com/pion/webrtc/v3/pkg/media"
)

const (
	setupTimeout = 15 * time.Second
	tail         = 500 * time.Millisecond
	frame        = 20 * time.Millisecond
	question     = `{"from": "pion"}`
)

type result struct {
	Implementation string `json:"implementation"`
	Connected      bool   `json:"connected"`
	Sent           int    `json:"sent"`
	Returned       int    `json:"returned"`
	Distinct       int    `json:"distinct"`
	Data           bool   `json:"data"`
	Deleted        int    `json:"deleted"`
}

func main() {
	outcome, err := call(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcome); err != nil {
		os.Exit(1)
	}
}

func call(whip, file string) (*result, error) {
	packets, err := read(file)
	if err != nil {
		return nil, err
	}
	var lock sync.Mutex
	outcome := &result{Implementation: "pion"}
	sent, returned := map[string]bool{}, map[string]bool{}
	for _, packet := range packets {
		sent[string(packet)] = true
	}

	peer, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	defer peer.Close()
	opus := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	track, err := webrtc.NewTrackLocalStaticSample(opus, "track", "stream")
	if err != nil {
		return nil, err
	}
	if _, err = peer.AddTrack(track); err != nil {
		return nil, err
	}
	peer.OnTrack(func(theirs *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			packet, _, err := theirs.ReadRTP()
			if err != nil {
				return
			}
			lock.Lock()
			if sent[string(packet.Payload)] {
				returned[string(packet.Payload)] = true
			}
			lock.Unlock()
		}
	})
	channel, err := peer.CreateDataChannel("earshot", nil)
	if err != nil {
		return nil, err
	}
	open := make(chan struct{})
	channel.OnOpen(func() { close(open) })
	channel.OnMessage(func(message webrtc.DataChannelMessage) {
		lock.Lock()
		defer lock.Unlock()
		outcome.Data = outcome.Data || strings.Contains(string(message.Data), `"from": "pion"`)
	})

	offer, err := peer.CreateOffer(nil)
	if err != nil {
		return nil, err
	}
	if err = peer.SetLocalDescription(offer); err != nil {
		return nil, err
	}
	resource, answer, err := post(whip, offer.SDP)
	if err != nil {
		return nil, err
	}
	if err = peer.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		return nil, err
	}
	select {
	case <-open:
		outcome.Connected = true
		if err = channel.SendText(question); err != nil {
			return nil, err
		}
		ticker := time.NewTicker(frame)
		defer ticker.Stop()
		for _, packet := range packets {
			<-ticker.C
			if err = track.WriteSample(media.Sample{Data: packet, Duration: frame}); err != nil {
				return nil, err
			}
			outcome.Sent++
		}
		time.Sleep(tail)
	case <-time.After(setupTimeout):
	}
	if outcome.Deleted, err = hangUp(resource); err != nil {
		return nil, err
	}
	lock.Lock()
	defer lock.Unlock()
	outcome.Returned, outcome.Distinct = len(returned), len(sent)
	return outcome, nil
}

func read(file string) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var encoded []string
	if err = json.Unmarshal(text, &encoded); err != nil {
		return nil, err
	}
	packets := make([][]byte, len(encoded))
	for number, one := range encoded {
		if packets[number], err = base64.StdEncoding.DecodeString(one); err != nil {
			return nil, err
		}
	}
	return packets, nil
}

// post returns the session's address and the answer.
func post(whip, offer string) (string, string, error) {
	response, err := http.Post(whip, "application/sdp", bytes.NewBufferString(offer))
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", err
	}
	if response.StatusCode != http.StatusCreated {
		return "", "", fmt.Errorf("POST was answered %d: %s", response.StatusCode, answer)
	}
	base, err := url.Parse(whip)
	if err != nil {
		return "", "", err
	}
	location, err := base.Parse(response.Header.Get("Location"))
	if err != nil {
		return "", "", err
	}
	return location.String(), string(answer), nil
}

func hangUp(resource string) (int, error) {
	request, err := http.NewRequest(http.MethodDelete, resource, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}
