// Receives with the WebSocket client of java.net.http, and reconnects by hand.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

public class Receiver {
    static final String SOCKET_URL = System.getenv("SOCKET_URL");
    static final String TOKEN = System.getenv("TOKEN");

    /** Prints a notification on one line. Line feeds in a frame are between tokens of its data. */
    static void apply(String frame) {
        System.out.println(frame.replace('\n', ' '));
    }

    static class Listener implements WebSocket.Listener {
        final CompletableFuture<Integer> closed = new CompletableFuture<>();
        final StringBuilder text = new StringBuilder();

        // docs: begin
        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean isLast) {
            text.append(part); // a message arrives in parts
            if (!isLast) return next(socket);
            String message = text.toString();
            text.setLength(0);
            Map<String, Object> frame = Json.parse(message);
            if (!frame.containsKey("title")) return next(socket); // no notification
            apply(message);
            String ack = "{\"type\":\"ack\",\"seq\":" + frame.get("seq") + "}";
            return socket.sendText(ack, true).thenAccept(sent -> sent.request(1)); // a second send at a time fails
        }

        CompletionStage<?> next(WebSocket socket) {
            socket.request(1);
            return null;
        }

        // docs: end

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            closed.complete(code);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            closed.complete(1006);
        }
    }

    static void receive() throws InterruptedException {
        HttpClient client = HttpClient.newHttpClient();
        while (true) {
            Listener listener = new Listener();
            int code = client.newWebSocketBuilder()
                    .header("Authorization", "Bearer " + TOKEN)
                    .buildAsync(URI.create(SOCKET_URL), listener)
                    .thenCompose(socket -> listener.closed)
                    .exceptionally(error -> 1006)
                    .join();
            if (code == 4004 || code >= 4401 && code <= 4599) return; // needs the application
            Thread.sleep(1000);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Thread end = new Thread(() -> { // the test closes stdin when it ends
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException ended) {
                // It ends in any case.
            }
            Runtime.getRuntime().halt(0);
        });
        end.setDaemon(true);
        end.start();
        System.setOut(new java.io.PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true, "UTF-8"));
        receive();
    }
}
