// Parses JSON, which the JDK does not. An application has a library for it.

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

class Json {
    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> parse(String text) {
        return (Map<String, Object>) new Json(text).value();
    }

    private char peek() {
        while (Character.isWhitespace(text.charAt(at))) at++;
        return text.charAt(at);
    }

    private Object value() {
        switch (peek()) {
            case '{': return object();
            case '[': return array();
            case '"': return string();
            default: return literal();
        }
    }

    private Map<String, Object> object() {
        Map<String, Object> object = new LinkedHashMap<>();
        for (at++; peek() != '}'; ) {
            if (peek() == ',') at++;
            peek();
            String name = string();
            expect(':');
            object.put(name, value());
        }
        at++;
        return object;
    }

    private List<Object> array() {
        List<Object> array = new ArrayList<>();
        for (at++; peek() != ']'; array.add(value())) if (peek() == ',') at++;
        at++;
        return array;
    }

    private String string() {
        expect('"');
        StringBuilder string = new StringBuilder();
        while (true) {
            char next = text.charAt(at++);
            if (next == '"') return string.toString();
            if (next != '\\') {
                string.append(next);
                continue;
            }
            char escape = text.charAt(at++);
            int known = "bfnrt".indexOf(escape);
            if (escape == 'u') string.append((char) Integer.parseInt(text.substring(at, at += 4), 16));
            else string.append(known < 0 ? escape : "\b\f\n\r\t".charAt(known));
        }
    }

    private Object literal() {
        int start = at;
        while (at < text.length() && ",]}".indexOf(text.charAt(at)) < 0) at++;
        String literal = text.substring(start, at).strip();
        switch (literal) {
            case "true": return true;
            case "false": return false;
            case "null": return null;
            default: return new java.math.BigDecimal(literal);
        }
    }

    private void expect(char wanted) {
        if (peek() != wanted) throw new IllegalArgumentException("no " + wanted + " at " + at + " of " + text);
        at++;
    }
}
