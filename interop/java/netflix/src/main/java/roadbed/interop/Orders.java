package roadbed.interop;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * How a test drives a program: one order per line on standard input, words parted by spaces, and one answer per line on
 * standard output, {"what": the order's first word, "detail": [strings]}. The program ends after "stop".
 */
final class Orders {
    /** One thing that a program can be told to do, given the words after its name. */
    interface Order {
        Collection<String> carryOut(List<String> words) throws Exception;
    }

    private static final ObjectMapper JSON = new ObjectMapper();
    private final Map<String, Order> orders = new LinkedHashMap<>();
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    Orders on(String name, Order order) {
        orders.put(name, order);
        return this;
    }

    void say(String what, Collection<String> detail) {
        Map<String, Object> saying = new LinkedHashMap<>();
        saying.put("what", what);
        saying.put("detail", detail);
        try {
            out.println(JSON.writeValueAsString(saying));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Says "ready" and carries out orders until one is "stop" or the input ends. Then the process ends. */
    void obey() throws Exception {
        say("ready", List.of());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            List<String> words = List.of(line.split(" "));
            Order order = orders.get(words.get(0));
            if (order == null) {
                throw new IllegalArgumentException("no order " + line);
            }
            say(words.get(0), order.carryOut(words.subList(1, words.size())));
            if (words.get(0).equals("stop")) {
                break;
            }
        }
        System.exit(0);
    }
}
